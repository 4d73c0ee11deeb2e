"""The `[aggregation]` section: how updates become the next global state."""

from typing import Literal

from pydantic import Field

from fedtune.recipe.base import Section


class AggregationSection(Section):
    """The scheme and the weights of its sum."""

    scheme: Literal["mean"] = "mean"
    """`mean`: the weighted mean of the deltas; exact for `square`, FedIT for `lora`."""
    weights: Literal["examples", "uniform", "capped"] = "examples"
    """A client's weight: its number of examples, one, or its number of examples up to `weight_cap`."""
    weight_cap: int = Field(1000, ge=1)
    """The largest weight under `capped`."""
    max_examples: int = Field(10_000_000, ge=1)
    """A client that claims more examples than this is not believed."""
    max_norm: float = Field(1e6, gt=0)
    """An update whose Euclidean norm is larger is refused."""
