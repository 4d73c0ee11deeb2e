"""Simulators of federated fine-tuning side by side on the same model, data and result."""
