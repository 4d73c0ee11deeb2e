"""FedRot-LoRA (arXiv 2602.23638): each client turns its factors towards the global ones, then they are averaged.

(B·Q)·(Qᵀ·A) = B·A for any orthogonal Q, so turning changes no client's product and makes the factors comparable.
Q minimises ‖Qᵀ·A − A₀‖² + ‖B·Q − B₀‖² (orthogonal Procrustes), A₀ and B₀ being what the client was sent. The published
code aligns A in one round and B in the next, and nothing in the first; here both count at once, and while B₀ = 0 it is
A alone that does.
"""

import torch

from fedtune.aggregation.base import Frame
from fedtune.aggregation.flexlora import own_rank_both_ways
from fedtune.aggregation.mean import Mean
from fedtune.aggregation.scheme import LORA, Scheme
from fedtune.recipe.aggregation import AggregationSection
from fedtune.state import State


def turn(start: State, trained: State, frame: Frame, section: AggregationSection) -> State:
    """The trained state with every module's factors turned by `aggregation.alignment`; B·A stays, to fp32 rounding."""
    if not section.alignment:
        return trained
    turned = dict(trained)
    for module in frame.modules:
        names = f"{module}.lora_A", f"{module}.lora_B"
        a, b = (trained[name].double() for name in names)
        a0, b0 = (start[name].double() for name in names)
        q = rotation(a @ a0.T + b.T @ b0, section.alignment)
        turned |= {names[0]: (q.T @ a).float(), names[1]: (b @ q).float()}
    return turned


def rotation(correlation: torch.Tensor, alignment: float) -> torch.Tensor:
    """The orthogonal Q (r, r) for A·A₀ᵀ + Bᵀ·B₀ = U·Σ·Vᵀ: U·Vᵀ at `alignment` 1, and less far for less.

    On the way Q is the orthogonal matrix nearest to (1−λ)·I + λ·U·Vᵀ. No such way leads to a reflection, so below 1 it
    heads for the best rotation, which differs in the sign of the weakest direction. Numbers that are not finite, which
    the coordinator will refuse, are not turned.
    """
    identity = torch.eye(len(correlation), dtype=correlation.dtype)
    if not bool(correlation.isfinite().all()):
        return identity
    u, _, v = torch.linalg.svd(correlation)
    whole: torch.Tensor = u @ v
    if alignment == 1.0:
        return whole
    if torch.linalg.det(whole) < 0:
        whole = whole - 2 * torch.outer(u[:, -1], v[-1])
    left, _, right = torch.linalg.svd((1 - alignment) * identity + alignment * whole)
    part: torch.Tensor = left @ right
    return part


SCHEME = Scheme(
    title="factors turned towards the global ones before their mean (FedRot-LoRA, arXiv 2602.23638)",
    make=lambda _section, frame: Mean(frame),
    aggregator=Mean,
    forms=LORA,
    traffic=own_rank_both_ways,
    formula={"up": "r(m+n)", "down": "r(m+n)"},
    finish_client=turn,
    note="Not exact; removes what clients lose to each other by holding the same product in turned factors.",
)
