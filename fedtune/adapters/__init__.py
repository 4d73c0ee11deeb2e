"""Adapters: the small tensors that are trained inside a frozen model."""
