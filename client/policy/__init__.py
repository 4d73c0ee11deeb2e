"""The data owner's own limits: a policy of what may be asked of a data set, and the book of what was spent on it."""
