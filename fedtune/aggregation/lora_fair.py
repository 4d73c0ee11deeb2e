"""LoRA-FAIR (arXiv 2411.14961): the factors are averaged, then one is corrected towards the mean of the products.

Ā = Σpₖ·Aₖ, B̄ = Σpₖ·Bₖ and ΔW = Σpₖ·Bₖ·Aₖ; clients go on from Ā and B̄ + ΔB. In the Frobenius norm ΔB minimises
‖ΔW − (B̄+ΔB)·Ā‖² + λ‖ΔB‖²: ΔB = (ΔW − B̄·Ā)·Āᵀ·(Ā·Āᵀ + λI)⁻¹. Correcting A is the same problem transposed. No (out, in)
matrix is formed, as ΔW − B̄·Ā = Σpₖ·(Bₖ − B̄)·(Aₖ − Ā).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fedtune.aggregation.base import Contribution, Frame, Global
from fedtune.aggregation.collect import Collecting, Pair
from fedtune.aggregation.flexlora import own_rank_both_ways
from fedtune.aggregation.lora_fair_sgd import cosine_steps
from fedtune.aggregation.scheme import LORA, Scheme
from fedtune.aggregation.stack import stack
from fedtune.recipe.adapter import AdapterForm
from fedtune.recipe.aggregation import AggregationSection

NEGLIGIBLE = 1e-12
"""Directions of the fixed factor whose squared singular value is below this share of the largest are not corrected:
one part in a million is where the fp32 rounding of what clients send begins."""


@dataclass(frozen=True, slots=True)
class Half:
    """One factor is free, the other fixed: (F+Δ)·G is to come close to ΔW; for A, all of it transposed."""

    free: torch.Tensor
    """F, (out, r)."""
    gap: torch.Tensor
    """(ΔW − F·G)·Gᵀ, (out, r)."""
    gram: torch.Tensor
    """G·Gᵀ, (r, r)."""
    size: float
    """‖ΔW‖."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The clients' factors of one module, as their means and what each differs from them."""

    a: torch.Tensor
    """Ā, (r, in)."""
    b: torch.Tensor
    """B̄, (out, r)."""
    apart: tuple[Pair, ...]
    """Aₖ − Ā and Bₖ − B̄."""
    size: float
    """‖Σpₖ·Bₖ·Aₖ‖."""

    @classmethod
    def of(cls, pairs: list[Pair]) -> "Spread":
        """The spread of a round's pairs; their shares sum to one."""
        a = _sum(pair.weight * pair.a for pair in pairs)
        b = _sum(pair.weight * pair.b for pair in pairs)
        apart = tuple(Pair(pair.weight, pair.a - a, pair.b - b) for pair in pairs)
        return cls(a, b, apart, _size(pairs))

    def free_b(self) -> Half:
        """B is free beside Ā."""
        gap = _sum(pair.weight * pair.b @ (pair.a @ self.a.T) for pair in self.apart)
        return Half(self.b, gap, self.a @ self.a.T, self.size)

    def free_a(self, b: torch.Tensor) -> Half:
        """A is free beside `b`, which may have been corrected."""
        gap = _sum(pair.weight * (b.T @ pair.b) @ pair.a for pair in self.apart) - (b.T @ (b - self.b)) @ self.a
        return Half(self.a.T, gap.T, b.T @ b, self.size)


def ridge(half: Half, regularisation: float) -> torch.Tensor:
    """Δ (out, r) = gap·(gram + λI)⁻¹, the minimiser of ‖ΔW − (F+Δ)·G‖² + λ‖Δ‖²; the shortest one where λ = 0."""
    values, vectors = torch.linalg.eigh(half.gram)
    kept = values > NEGLIGIBLE * values[-1]
    inverse = torch.where(kept, 1 / torch.where(kept, values + regularisation, 1.0), 0.0)
    delta: torch.Tensor = (half.gap @ vectors * inverse) @ vectors.T
    return delta


def _closed_form(half: Half, section: AggregationSection) -> torch.Tensor:
    return ridge(half, section.regularisation)


def _cosine_sgd(half: Half, section: AggregationSection) -> torch.Tensor:
    return cosine_steps(
        half.free,
        half.gap,
        half.gram,
        half.size,
        regularisation=section.regularisation,
        steps=section.solver_steps,
        lr=section.solver_lr,
    )


SOLVERS: Mapping[str, Callable[[Half, AggregationSection], torch.Tensor]] = {
    "closed-form": _closed_form,
    "cosine-sgd": _cosine_sgd,
}
"""How Δ is found, by `aggregation.solver`."""


class LoraFair(Collecting):
    """The mean of the factors with a correction of B, of A, or of B and then of A beside the corrected B.

    Guarantees: clients that agree on A or on B, and a client alone, leave nothing to correct. In closed form the new
    product is no farther from the mean of the products than B̄·Ā is, in the Frobenius norm; with `cosine-sgd` its
    angle to it is no larger. λ counts as in the formulas, against factors without LoRA's scale.
    """

    exact_for: ClassVar[frozenset[AdapterForm]] = frozenset()
    heterogeneous_for: ClassVar[frozenset[AdapterForm]] = frozenset()

    def __init__(self, frame: Frame, section: AggregationSection) -> None:
        super().__init__(frame)
        self._section = section

    def combine(self, contributions: list[Contribution]) -> Global:
        """The mean of everything that is trained, with each module's correction on top."""
        world = self.rest()
        state = dict(world.state)
        for module in self.frame.modules:
            a, b = self._corrected(Spread.of(self.pairs(contributions, module)))
            state[f"{module}.lora_A"], state[f"{module}.lora_B"] = a.float(), b.float()
        return replace(world, state=state)

    def _corrected(self, spread: Spread) -> tuple[torch.Tensor, torch.Tensor]:
        solve, correct = SOLVERS[self._section.solver], self._section.correct
        a, b = spread.a, spread.b
        if correct != "A":
            b = b + solve(spread.free_b(), self._section)
        if correct != "B":
            a = a + solve(spread.free_a(b), self._section).T
        return a, b


def _sum(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    first, *others = terms
    for term in others:
        first = first + term
    return first


def _size(pairs: list[Pair]) -> float:
    """‖Σpₖ·Bₖ·Aₖ‖ by the Gram matrices of the stacked factors."""
    stacked = stack((pair.weight * pair.b, pair.a) for pair in pairs)
    if stacked is None:
        return 0.0
    left, right = stacked
    return math.sqrt(max(float(((left.T @ left) * (right @ right.T)).sum()), 0.0))


SCHEME = Scheme(
    title="the mean of the factors, corrected towards the mean product (LoRA-FAIR, arXiv 2411.14961)",
    make=lambda section, frame: LoraFair(frame, section),
    aggregator=LoraFair,
    forms=LORA,
    traffic=own_rank_both_ways,
    formula={"up": "r(m+n)", "down": "r(m+n)"},
    growth="one update a client",
    note="The best correction within the row space of the mean A, not exact: where clients drift apart at random, "
    "nothing of rank r comes much closer than the plain mean.",
)
