"""Federated fine-tuning: the library. Tensors in, tensors out; no network."""

__version__ = "0.1.0"
