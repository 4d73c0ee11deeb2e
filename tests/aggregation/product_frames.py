"""Frames of small adapters that know their products, and what a world adds to the base weights, densely in float64."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from fedtune.adapters.base import Products
from fedtune.aggregation.base import Frame, Global
from fedtune.state import State
from tests.aggregation.worlds_of_factors import HEAD, TWO_MODULES, Dense, draw, lora_frame

Modules = Mapping[str, tuple[int, int]]


def lora(rank: int, *, modules: Modules = TWO_MODULES, scale: float = 2.0) -> Frame:
    """LoRA: (A, scale·B)."""

    def products(state: State) -> Products:
        return {m: (state[f"{m}.lora_A"].double(), scale * state[f"{m}.lora_B"].double()) for m in modules}

    return replace(lora_frame(rank, modules=modules, scale=scale), products=products)


def square(rank: int, *, modules: Modules = TWO_MODULES, seed: int = 11) -> Frame:
    """A square adapter between frozen factors: (A, B·R)."""
    frozen = draw({f"{m}.B": (out, rank) for m, (out, _) in modules.items()}, seed)
    frozen |= draw({f"{m}.A": (rank, in_) for m, (_, in_) in modules.items()}, seed + 1)

    def products(state: State) -> Products:
        return {m: (frozen[f"{m}.A"].double(), frozen[f"{m}.B"].double() @ state[f"{m}.R"].double()) for m in modules}

    shapes = {**HEAD, **{f"{m}.R": (rank, rank) for m in modules}}
    axes = {f"{m}.R": (0, 1) for m in modules}
    return Frame("square", shapes, axes, rank, dict(modules), 1.0, 7, products=products)


def whole_change(frame: Frame, world: Global) -> Dense:
    """Shift and product of a world."""
    shift = world.shift.dense()
    return {m: shift.get(m, torch.zeros(())) + b @ a for m, (a, b) in frame.products(world.state).items()}
