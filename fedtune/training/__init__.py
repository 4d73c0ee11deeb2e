"""Local training: the steps of a cohort of clients against one resident base model."""
