"""Random rounds of LoRA clients, for properties that hold whatever the shapes, weights and sizes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from fedtune.aggregation.base import Contribution, Frame, Global
from fedtune.state import State
from tests.aggregation.worlds_of_factors import SIZES, WEIGHTS, lora_frame, random_contributions, random_world


@dataclass(frozen=True)
class Round:
    """What a scheme is given."""

    frame: Frame
    world: Global
    contributions: list[Contribution]

    def mean_of(self, name: str) -> torch.Tensor:
        """Σ pₖ·(start + δₖ) of one tensor, in float64."""
        total = sum(c.weight for c in self.contributions)
        start = self.world.state[name].double()
        return sum((c.weight / total * (start + c.delta[name].double()) for c in self.contributions), 0 * start)


@st.composite
def lora_rounds(draw: st.DrawFn, names: Callable[[tuple[str, ...]], tuple[str, ...]] | None = None) -> Round:
    """One to six clients of a rank from 1, on modules of any shape; `names` picks what they send."""
    rank = draw(st.integers(1, 5))
    modules = {"m.q": (draw(SIZES), draw(SIZES)), "m.v": (draw(SIZES), draw(SIZES))}
    frame = lora_frame(rank, modules=modules)
    seed = draw(st.integers(0, 10_000))
    weights = draw(st.lists(WEIGHTS, min_size=1, max_size=6))
    world = random_world(frame, seed, shifted=draw(st.booleans()))
    sent = None if names is None else names(tuple(frame.shapes))
    size = draw(st.sampled_from([1e-4, 0.1, 1.0, 30.0]))
    return Round(frame, world, random_contributions(frame, weights, seed, names=sent, size=size))


def same_bits(left: State, right: State) -> bool:
    """Are two states equal in every bit?"""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def with_zero_b(world: Global) -> Global:
    """The world before the first round: every B is zero."""
    return Global({name: t * 0 if name.endswith(".lora_B") else t for name, t in world.state.items()}, world.shift)
