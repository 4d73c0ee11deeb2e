"""Base models: a name, a folder or a Hub id becomes a frozen model with its processor."""
