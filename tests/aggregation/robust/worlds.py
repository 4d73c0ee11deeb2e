"""Small rounds for the tests of robust rules: sections, frames, and updates of named clients."""

import itertools

import torch

from fedtune.aggregation import Contribution, Frame, Global
from fedtune.aggregation.make import make_aggregator
from fedtune.aggregation.robust.rules import RULES
from fedtune.recipe.aggregation import AggregationSection
from fedtune.seeds import generator

SHAPES = {"head.weight": (2, 3), "m.R": (3, 3)}
BEFORE = ((), ("nnm",), ("bucketing",), ("bucketing", "nnm"))
EVERY_WAY = [(rule, before) for rule, before in itertools.product(RULES, BEFORE) if (rule, before) != ("mean", ())]
"""Every rule with everything that may come before it."""


def no_products(_state):
    raise AssertionError("a robust rule asks for no products")


def frame_for(shapes=None):
    return Frame("square", shapes or SHAPES, {}, 0, {}, 1.0, 7, no_products)


def section_for(rule, before=(), **keys):
    return AggregationSection(rule=rule, before_rule=before, **keys)


def start(shapes=None, **parts):
    return Global({name: torch.ones(shape) for name, shape in (shapes or SHAPES).items()}, **parts)


def updates(count, *, seed=0, spread=1.0, mean=0.0):
    """`count` contributions of normal numbers, `c00` first."""
    draw = generator(seed, "updates")
    numbers = [{n: mean + spread * torch.randn(s, generator=draw) for n, s in SHAPES.items()} for _ in range(count)]
    return [Contribution(f"c{i:02}", delta, 1.0 + i) for i, delta in enumerate(numbers)]


def finish(section, contributions, *, world=None, round_=1, frame=None):
    aggregator = make_aggregator(section, frame or frame_for())
    aggregator.begin(world or start(), round_)
    for contribution in contributions:
        aggregator.add(contribution)
    return aggregator.finish()


def flat(state):
    return torch.cat([state[name].reshape(-1).double() for name in sorted(state)])
