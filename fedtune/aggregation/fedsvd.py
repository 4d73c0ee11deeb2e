"""FedSVD (arXiv 2505.12805): clients train B; the coordinator averages it and makes A orthonormal again.

With B̄·A = U·Σ·Vᵀ the next round starts from A = Vᵀ and B = U·Σ: the same product, and gradients of B that A neither
stretches nor shrinks. A is sent with the state and is nobody's to train.
"""

from dataclasses import replace
from typing import ClassVar

import torch

from fedtune.aggregation.base import Frame, Global
from fedtune.aggregation.mean import Mean
from fedtune.aggregation.scheme import LORA, Layout, Names, Scheme, Traffic
from fedtune.aggregation.traffic import b_numbers, lora_numbers
from fedtune.recipe.adapter import AdapterForm


class FedSvd(Mean):
    """The mean of B beside a shared A, then both factors anew.

    Guarantees: the new product is the weighted mean of the clients' products, to fp32 rounding; A has orthonormal rows,
    also where B̄ is zero or of low rank.
    """

    exact_for: ClassVar[frozenset[AdapterForm]] = LORA
    heterogeneous_for: ClassVar[frozenset[AdapterForm]] = frozenset()

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        self._modules = tuple(frame.modules)

    def finish(self) -> Global:
        """The mean with every module's factors anew; raises RunError where nothing was added."""
        world = super().finish()
        state = dict(world.state)
        for module in self._modules:
            names = f"{module}.lora_A", f"{module}.lora_B"
            a, b = orthonormal(*(state[name].double() for name in names))
            state |= {names[0]: a.float(), names[1]: b.float()}
        return replace(world, state=state)


def orthonormal(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(A', B') of the same product and shapes, A' (r, in) with orthonormal rows that span the rows of `a`.

    By Aᵀ = Q·S and the decomposition of the tall B·Sᵀ (out, r), so that directions in which B is zero keep their place
    in A'. B' has orthogonal columns, the longest first; the largest entry of each row of A' is positive. Slots beyond
    the number of inputs, which no orthonormal row is left for, become zero.
    """
    q, s = torch.linalg.qr(a.T)
    rows = q.shape[1]
    left, values, right = torch.linalg.svd(b @ s.T, full_matrices=b.shape[0] < rows)
    new_a, new_b = torch.zeros_like(a), torch.zeros_like(b)
    new_a[:rows] = right @ q.T
    new_b[:, : len(values)] = left[:, : len(values)] * values
    largest = new_a.gather(1, new_a.abs().argmax(dim=1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(a)
    return new_a * sign, new_b * sign.T


def trains_b(names: Names, _round: int) -> Names:
    """Everything but A."""
    return tuple(name for name in names if not name.endswith(".lora_A"))


def _traffic(layout: Layout) -> Traffic:
    return Traffic(
        up=b_numbers(layout, layout.rank) + layout.head, down=lora_numbers(layout, layout.rank) + layout.head
    )


SCHEME = Scheme(
    title="B is averaged, then A made orthonormal again (FedSVD, arXiv 2505.12805)",
    make=lambda _section, frame: FedSvd(frame),
    aggregator=FedSvd,
    forms=LORA,
    traffic=_traffic,
    formula={"up": "r·m", "down": "r(m+n)"},
    trains=trains_b,
    note="Exact; the coordinator alone changes A, from what it has been sent anyway.",
)
