"""A sum of low-rank products Σ Uₖ·Vₖ kept as stacked factors: one wide U, one tall V."""

from collections.abc import Iterable

import torch

from fedtune.state import State

Factors = tuple[torch.Tensor, torch.Tensor]
"""(U, V) of shapes (out, q) and (q, in), in double precision; they stand for U·V."""


def stack(terms: Iterable[Factors]) -> Factors | None:
    """[U₁ … U_K] (out, Σq) and [V₁; …; V_K] (Σq, in); terms that are zero are left out, None where all are."""
    kept = [(u, v) for u, v in terms if bool(u.any()) and bool(v.any())]
    if not kept:
        return None
    return torch.cat([u for u, _ in kept], dim=1), torch.cat([v for _, v in kept], dim=0)


def increment(module: str, factors: Factors | None, *, dense: bool = False) -> State:
    """What a shift of `module` by U·V adds, in fp32: the factors, or the matrix where that is smaller or asked for."""
    if factors is None:
        return {}
    u, v = factors
    if dense or u.numel() + v.numel() > u.shape[0] * v.shape[1]:
        return {f"{module}.D": (u @ v).float()}
    return {f"{module}.U": u.float().contiguous(), f"{module}.V": v.float().contiguous()}


def increment_numbers(module: tuple[int, int], rank: int) -> int:
    """How many numbers `increment` has for a weight (out, in) and stacked factors of inner dimension `rank`."""
    out, in_ = module
    return min(rank * (out + in_), out * in_)
