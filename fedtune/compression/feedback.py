"""Error feedback: what a lossy upload left out is added to the next one (EF: arXiv 1901.09847; EF21: 2106.05203).

Classic: a client sends C(δ + e) and keeps e ← δ + e − C(δ + e). After any number of rounds what was sent plus what is
kept is the sum of the true deltas. EF21: both sides hold g; the client sends C(δ − g), and g ← g + C(δ − g) is what its
delta is taken to be.
"""

from collections.abc import Mapping
from typing import Literal

import torch

from fedtune.recipe.aggregation import SchemeName
from fedtune.recipe.compression import CompressionSection
from fedtune.recipe.rules_aggregation import RESTARTING
from fedtune.state import State

Feedback = Literal["none", "classic", "ef21"]
Tensors = Mapping[str, torch.Tensor]


def feedback_of(section: CompressionSection, scheme: SchemeName, *, lossless: bool) -> Feedback:
    """The feedback of a recipe: `auto` is classic, but none where nothing is lost or the adapter restarts.

    In new coordinates what was left out of an old delta means nothing; and `random-k` sends d/k times what it keeps, so
    that feedback would grow without bound.
    """
    if lossless:
        return "none"
    if section.feedback == "auto":
        return "none" if scheme in RESTARTING or "random-k" in section.upload else "classic"
    return section.feedback


def target(delta: Tensors, kept: Tensors, kind: Feedback) -> State:
    """What to encode, fp32: δ + e of `classic`, δ − g of `ef21`; names that are not kept count as zero."""
    sign = -1.0 if kind == "ef21" else 1.0
    return {
        name: (tensor.double() + sign * kept[name]).float() if name in kept else tensor
        for name, tensor in delta.items()
    }


def keep(delta: Tensors, kept: Tensors, sent: Tensors, kind: Feedback) -> State:
    """What to keep after `sent` was decoded as the other side decodes it: e, or g; double precision.

    In double precision, so that Σ sent + e is Σ δ to the fifteenth digit after thousands of rounds.
    """
    after: State = {}
    for name, tensor in delta.items():
        old = kept.get(name, torch.zeros((), dtype=torch.float64))
        after[name] = old + sent[name].double() if kind == "ef21" else tensor.double() + old - sent[name].double()
    return after
