"""What is asked of a written layer: which of its tokens are wanted, and what is known of it before.

Shape suffixes: N = tokens of the stream, M = those that are wanted, W = width of a projection, R = rows, H = heads,
D = of the model, or of a head where there are heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from fedtune.cohort.attention import attend
from fedtune.cohort.drops import Drops
from fedtune.cohort.layout import Spans
from fedtune.cohort.mapped import frozen_part, maps_of
from fedtune.cohort.one_token import one_token
from fedtune.cohort.places import Places
from fedtune.cohort.stream import Stream

Names = tuple[str, str, str]
"""A layer's projections to queries, keys and values."""


@dataclass(frozen=True, eq=False)
class Ask:
    """What is asked of a layer: which tokens are wanted of it, and what is known of it before."""

    places: Places
    """How the wanted tokens look at their row's."""
    wanted: torch.Tensor | None = None
    """(M,) the places in the stream; None for all."""
    known: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """By the projection's name in the layer, what its frozen weight gives: (N, W), or (M, W) of queries."""
    one: Spans | None = None
    """Rows of each client where one token of each row is wanted, and its attention may do without keys and values."""
    drops: Drops | None = None
    """What is dropped of attention by; None where nothing is dropped."""

    @classmethod
    def of(
        cls, stream: Stream, *, read: bool, known: Mapping[str, torch.Tensor] | None = None, one: bool = False
    ) -> "Ask":
        """All tokens of a stream, or those that the loss reads; `one`: may these do without keys and values?"""
        if read:
            spans = stream.rows if one and set(stream.reads) == {1} else None
            return cls(stream.read_to_all, stream.read, known or {}, spans, stream.drops)
        return cls(stream.all_to_all, None, known or {}, None, stream.drops)

    def own(self, x: torch.Tensor) -> torch.Tensor:
        """The wanted ones of (1, N, …)."""
        return x if self.wanted is None else x.index_select(1, self.wanted)

    def project(self, layer: nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
        """A projection of the layer with whatever adapter is on it; its frozen part is not computed where known."""
        module = layer.get_submodule(name)
        known = self.known.get(name)
        if known is None:
            projected: torch.Tensor = module(x)
            return projected
        base = frozen_part(module)
        if base is module:
            return known.unsqueeze(0)
        # The adapter calls its base layer as ever; the module is the same, hooks and all, before and after.
        base.__dict__["forward"] = lambda y: known.reshape(*y.shape[:-1], -1)
        try:
            adapted: torch.Tensor = module(x)
        finally:
            del base.__dict__["forward"]
        return adapted

    def mix(
        self,
        layer: nn.Module,
        names: Names,
        x: torch.Tensor,
        *,
        width: int,
        scale: float,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """(1, M, heads · width): what the wanted tokens take from x, (1, N, D), by its projections of these names.

        `dropout` is the chance with which a share of it is dropped, where rows have seeds.
        """
        q, k, v = names
        asked = self.one is not None and not causal and self.drops is None
        maps = maps_of([layer.get_submodule(name) for name in (k, v)], x.dtype) if asked else ()
        query = self.project(layer, q, self.own(x))
        if self.one is None or not maps:
            key, value = self.project(layer, k, x), self.project(layer, v, x)
            return self.attention(query, key, value, width=width, scale=scale, causal=causal, dropout=dropout)
        (key_map, value_map), query_RHD = maps, query.reshape(query.shape[1], -1, width)
        mixed_RHD = one_token(query_RHD, x.squeeze(0), key_map, value_map, self.places, self.one, scale)
        return mixed_RHD.flatten(1).unsqueeze(0)

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        width: int,
        scale: float,
        causal: bool,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        """(1, M, heads · width) from (1, M, …) queries and (1, N, …) keys and values; heads stand side by side."""
        q, k, v = (x.reshape(x.shape[1], -1, width) for x in (q, k, v))
        dropped = None if self.drops is None else self.drops.shares(dropout, read=self.places.reads)
        return attend(q, k, v, self.places, scale=scale, causal=causal, dropped=dropped).flatten(1).unsqueeze(0)
