"""Poison in the data: a client that trains as it should, on labels that are wrong."""

import torch


def flip_labels(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Class c as class C − 1 − c; long, the shape of `labels`."""
    return classes - 1 - labels
