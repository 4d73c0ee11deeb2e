"""HetLoRA (arXiv 2401.06432): clients of different ranks, padded with zeros and weighted by the norm of their product.

A = Σqₖ·pad(Aₖ) and B = Σqₖ·pad(Bₖ) with qₖ = ‖Bₖ·Aₖ‖ / Σ‖Bⱼ·Aⱼ‖, the norm taken over all modules together. A client
that finds its last slots shrinking gives them up. The published client also adds the norm of those slots to its loss;
here the recipe's own loss and weight decay decide.
"""

import math
from dataclasses import replace
from typing import ClassVar

import torch

from fedtune.adapters.slots import mask, widen
from fedtune.aggregation.base import Contribution, Frame, Global
from fedtune.aggregation.collect import Collecting, Pair
from fedtune.aggregation.flexlora import own_rank_both_ways
from fedtune.aggregation.scheme import LORA, Scheme
from fedtune.recipe.adapter import AdapterForm
from fedtune.state import State


class HetLora(Collecting):
    """The norm-weighted sum of the zero-padded factors; the head is averaged by the clients' own weights.

    Slots that nobody trained stay as they are: a slot with A = B = 0 would never train again.
    """

    exact_for: ClassVar[frozenset[AdapterForm]] = frozenset()
    heterogeneous_for: ClassVar[frozenset[AdapterForm]] = LORA

    def combine(self, contributions: list[Contribution]) -> Global:
        """The next factors, weighted anew; everything else as in the mean."""
        world = self.rest()
        state, shares = dict(world.state), self._shares(contributions)
        for module in self.frame.modules:
            state |= self._padded_sum(contributions, shares, module)
        return replace(world, state=state)

    def _shares(self, contributions: list[Contribution]) -> list[float]:
        """qₖ; the clients' own weights where all products are zero."""
        squares = [0.0] * len(contributions)
        for module in self.frame.modules:
            for i, pair in enumerate(self.pairs(contributions, module)):
                squares[i] += _squared_norm(pair)
        norms = [math.sqrt(square) for square in squares]
        parts = norms if any(norms) else [contribution.weight for contribution in contributions]
        return [part / sum(parts) for part in parts]

    def _padded_sum(self, contributions: list[Contribution], shares: list[float], module: str) -> State:
        names = (f"{module}.lora_A", f"{module}.lora_B")
        shapes, axes = self.frame.shapes, self.frame.axes
        sums = {name: torch.zeros(shapes[name], dtype=torch.float64) for name in names}
        reached = {name: torch.zeros(()) for name in names}
        pairs = self.pairs(contributions, module)
        for contribution, share, pair in zip(contributions, shares, pairs, strict=True):
            own = dict(zip(names, (pair.a, pair.b), strict=True))
            for name, factor in widen(own, shapes, axes, contribution.slots).items():
                sums[name] += share * factor
                reached[name] = torch.maximum(reached[name], mask(shapes[name], axes[name], contribution.slots))
        return {name: torch.where(reached[name] > 0, sums[name].float(), self.world.state[name]) for name in names}


def pruned_rank(start: State, trained: State, frame: Frame, rank: int, prune: float) -> int:
    """A client's rank after its self-pruning: without its last ⌈prune·rank⌉ slots, where these lost norm in training.

    Their norm is Σ‖B[:, tail]‖·‖A[tail]‖ over the modules, of whole-shape states. At least one slot is left.
    """
    given_up = math.ceil(round(prune * rank, 9))  # 0.28·25 is 7.000000000000001
    tail = slice(rank - given_up, rank)
    if _tail_norm(trained, frame, tail) < _tail_norm(start, frame, tail):
        return max(1, rank - given_up)
    return rank


def _tail_norm(state: State, frame: Frame, tail: slice) -> float:
    return sum(
        float(state[f"{module}.lora_B"][:, tail].double().norm() * state[f"{module}.lora_A"][tail].double().norm())
        for module in frame.modules
    )


def _squared_norm(pair: Pair) -> float:
    """‖Bₖ·Aₖ‖² = ⟨BₖᵀBₖ, AₖAₖᵀ⟩."""
    return max(float(((pair.b.T @ pair.b) * (pair.a @ pair.a.T)).sum()), 0.0)


SCHEME = Scheme(
    title="zero-padded factors of any rank, weighted by the norm of their product (HetLoRA, arXiv 2401.06432)",
    make=lambda _section, frame: HetLora(frame),
    aggregator=HetLora,
    forms=LORA,
    traffic=own_rank_both_ways,
    formula={"up": "rₖ(m+n)", "down": "rₖ(m+n)"},
    growth="one update a client",
    note="Clients count by the norm of their product, not by their examples; slots that few clients hold shrink.",
)
