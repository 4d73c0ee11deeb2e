"""What stages ask of the values that anybody may have sent; dtypes and shapes have been checked before."""

import torch

from fedtune.errors import MalformedMessage


def check_scales(scales: torch.Tensor, *, stage: str) -> None:
    """Raise MalformedMessage unless every scale is finite; a negative one does no more harm than wrong signs."""
    if not bool(scales.isfinite().all()):
        raise MalformedMessage(f"the update has a scale of {stage!r} that is NaN or infinite")


def check_symbols(symbols: torch.Tensor, low: int, high: int, *, stage: str) -> None:
    """Raise MalformedMessage unless low ≤ symbol ≤ high everywhere."""
    if symbols.numel() and (int(symbols.min()) < low or int(symbols.max()) > high):
        raise MalformedMessage(f"the update has a symbol of {stage!r} outside {low} to {high}")
