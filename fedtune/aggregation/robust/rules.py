"""Every robust rule, and what may come before it, by its name in a recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from fedtune.aggregation.robust.buckets import average_buckets
from fedtune.aggregation.robust.clipping import centred_clipping
from fedtune.aggregation.robust.columns import by_columns
from fedtune.aggregation.robust.coordinates import median, trimmed_mean
from fedtune.aggregation.robust.geometric import geometric_median
from fedtune.aggregation.robust.krum import krum, multi_krum
from fedtune.aggregation.robust.mixing import mix_neighbours
from fedtune.recipe.aggregation import AggregationSection, RobustRule


@dataclass(frozen=True, slots=True)
class Round:
    """What a rule knows beside the matrix."""

    f: int
    """How many rows may be poisoned."""
    centre: torch.Tensor
    """What the last round came to, (d,); zeros in the first, and for rules that do not keep it."""
    generator: torch.Generator
    """For what is drawn in this round."""
    section: AggregationSection


@dataclass(frozen=True, slots=True)
class Rule:
    """A robust rule."""

    aggregate: Callable[[torch.Tensor, Round], torch.Tensor]
    """From the matrix (K, d) to one update, float64 (d,)."""
    keeps_centre: bool = False
    """Does it start from what the last round came to?"""


def _centred_clipping(matrix: torch.Tensor, given: Round) -> torch.Tensor:
    section = given.section
    return centred_clipping(matrix, given.centre, radius=section.clip_radius, steps=section.clip_steps)


RULES: Mapping[RobustRule, Rule] = {
    "mean": Rule(lambda matrix, _given: by_columns(matrix, lambda block: block.mean(dim=0))),
    "median": Rule(lambda matrix, _given: median(matrix)),
    "trimmed-mean": Rule(lambda matrix, given: trimmed_mean(matrix, given.f)),
    "geometric-median": Rule(lambda matrix, _given: geometric_median(matrix)),
    "krum": Rule(lambda matrix, given: krum(matrix, given.f)),
    "multi-krum": Rule(lambda matrix, given: multi_krum(matrix, given.f)),
    "centred-clipping": Rule(_centred_clipping, keeps_centre=True),
}

BEFORE: Mapping[str, Callable[[torch.Tensor, Round], torch.Tensor]] = {
    "nnm": lambda matrix, given: mix_neighbours(matrix, given.f),
    "bucketing": lambda matrix, given: average_buckets(matrix, given.section.bucket_size, given.generator),
}
"""From a matrix to the one that the next step works on: the same columns, no more rows."""
