"""How much a client counts: one small function a rule."""

from collections.abc import Callable

from fedtune.recipe.aggregation import AggregationSection

WeightRule = Callable[[int, AggregationSection], float]


def _examples(examples: int, _: AggregationSection) -> float:
    return float(examples)


def _uniform(_: int, __: AggregationSection) -> float:
    return 1.0


def _capped(examples: int, section: AggregationSection) -> float:
    return float(min(examples, section.weight_cap))


WEIGHT_RULES: dict[str, WeightRule] = {"examples": _examples, "uniform": _uniform, "capped": _capped}


def weigh(examples: int, section: AggregationSection) -> float:
    """The weight of a client that holds so many examples."""
    return WEIGHT_RULES[section.weights](examples, section)
