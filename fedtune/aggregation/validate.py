"""What an update must pass before it touches the sum; each refusal has its own error class and name."""

import math
from collections.abc import Mapping

import torch

from fedtune.adapters.check import difference
from fedtune.errors import MismatchedUpdate, NonFiniteUpdate, StaleUpdate, WeightOutOfRange
from fedtune.recipe.aggregation import AggregationSection
from fedtune.state import Shapes, shapes_of
from fedtune.wire.messages import Update


def check_origin(update: Update, *, run: str, round_: int, base: str, stages: tuple[str, ...]) -> None:
    """Raise StaleUpdate or MismatchedUpdate where the update was made for something else."""
    if update.run != run:
        raise StaleUpdate("the update was made for another run")
    if update.round != round_:
        raise StaleUpdate(f"the update was made for round {update.round}, not {round_}")
    if update.base != base:
        raise StaleUpdate("the update started from another global state")
    if update.stages != stages:
        raise MismatchedUpdate(f"the update went through stages {list(update.stages)}, not {list(stages)}")


def check_examples(examples: int, section: AggregationSection) -> None:
    """Raise WeightOutOfRange where the claimed count cannot be true."""
    if not 1 <= examples <= section.max_examples:
        raise WeightOutOfRange(f"{examples} examples are not between 1 and {section.max_examples}")


def check_delta(delta: Mapping[str, torch.Tensor], shapes: Shapes, section: AggregationSection) -> None:
    """Raise MismatchedUpdate or NonFiniteUpdate where a decoded delta cannot be summed."""
    if problem := difference(shapes_of(delta), shapes):
        raise MismatchedUpdate(f"the update {problem}")
    for name, tensor in delta.items():
        if tensor.dtype != torch.float32:
            raise MismatchedUpdate(f"the update's {name!r} is {tensor.dtype}, not torch.float32")
    norm = norm_of(delta)
    if not math.isfinite(norm) and any(not bool(t.isfinite().all()) for t in delta.values()):
        raise NonFiniteUpdate("the update holds NaN or infinity")
    if norm > section.max_norm:
        raise MismatchedUpdate(f"the update's norm {norm:.3g} is over aggregation.max_norm = {section.max_norm:.3g}")


def norm_of(tensors: Mapping[str, torch.Tensor]) -> float:
    """The Euclidean norm over all tensors together, computed in double precision where fp32 would overflow."""
    norms = [torch.linalg.vector_norm(t, dtype=torch.float64).item() for t in tensors.values()]
    return math.hypot(*norms)
