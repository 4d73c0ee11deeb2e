"""Attention between the tokens of a row, for rows that stand end to end in one stream without padding.

Shape suffixes: R = rows, N = keys (all tokens), M = queries, P = padded places, H = heads, D = width of a head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
NAME = "fedtune_rows"
"""What transformers knows this attention by."""
SHORTER = 0.7
"""Rows are padded together, inside attention alone, down to this share of the longest one's length."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of like length: they are padded to the longest and attend in one call."""

    rows: int
    queries: int
    """Queries a row, padding included."""
    keys: int
    """Keys a row, padding included."""
    own: torch.Tensor | None
    """(R, 1, 1, keys) bool: which keys are the row's own; None where all are."""
    before: torch.Tensor | None
    """(R, 1, queries, keys) bool: which of those a query may see that sees nothing behind it; None where plain
    causality says it."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the tokens of a stream stand in the padded groups, and back.

    Padding repeats a token of its own row, so that numbers that are not finite stay in their row.
    """

    groups: tuple[Group, ...]
    queries: tuple[torch.Tensor, torch.Tensor] | None
    """(P,) the query in each padded place, and (M,) the padded place of each query; None where both are 0, 1, 2, …"""
    keys: tuple[torch.Tensor, torch.Tensor] | None
    """The same for keys."""

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        device: torch.device,
        counts: Sequence[int] | None = None,
        read: torch.Tensor | None = None,
    ) -> "Places":
        """For rows of `lengths` tokens, one or more, that all ask, or of which `counts` ask (one or more a row), those
        at the ascending places `read`."""
        tokens = np.asarray(lengths)
        if read is None or tuple(counts or ()) == tuple(lengths):
            padded = [_padded(rows, tokens) for rows in _alike(tokens)]
            index = _index(padded, device)
            return cls(tuple(_group(keys, None, None, device) for keys in padded), index, index)
        asking = np.asarray(counts)
        inside = read.cpu().numpy() - np.repeat(np.cumsum(tokens) - tokens, asking)
        pairs = [(_padded(rows, asking), _padded(rows, tokens)) for rows in _alike(tokens)]
        groups = tuple(_group(keys, queries[0], inside, device) for queries, keys in pairs)
        return cls(groups, _index([q for q, _ in pairs], device), _index([k for _, k in pairs], device))


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, places: Places, *, scale: float | None, causal: bool
) -> torch.Tensor:
    """(M, H, D) from queries (M, H, D), and keys and values (N, H', D) with H' a divisor of H; rows apart."""
    heads = query.shape[1]
    q, k, v = _spread(query, places.queries), _spread(key, places.keys), _spread(value, places.keys)
    sizes_q = [group.rows * group.queries for group in places.groups]
    sizes_k = [group.rows * group.keys for group in places.groups]
    outputs = []
    for group, q_, k_, v_ in zip(
        places.groups, torch.split(q, sizes_q), torch.split(k, sizes_k), torch.split(v, sizes_k), strict=True
    ):
        mask = (group.before if causal else group.own) if group.before is not None or not causal else None
        output = scaled_dot_product_attention(
            _rows(q_, group.rows, heads),
            _rows(k_, group.rows, heads),
            _rows(v_, group.rows, heads),
            attn_mask=mask,
            scale=scale,
            is_causal=causal and mask is None and group.queries > 1,
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    if places.queries is None:
        return joined
    gathered: torch.Tensor = _Gather.apply(joined, places.queries[1])  # type: ignore[no-untyped-call]
    return gathered


_CURRENT: ContextVar[Places | None] = ContextVar("places", default=None)


@contextmanager
def rows_apart(configs: Sequence[Any], places: Places) -> Iterator[None]:
    """Inside, models of these configs take their batch of one, (1, N, …), for a stream of rows."""
    before = [config._attn_implementation for config in configs]
    token = _CURRENT.set(places)
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
        _CURRENT.reset(token)


def _forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    places = _CURRENT.get()
    if places is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
        )
        return plain
    if dropout or more.get("sliding_window"):
        raise ValueError("attention between rows of a stream has neither dropout nor a sliding window")
    causal = bool(is_causal if is_causal is not None else getattr(module, "is_causal", True))
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    return attend(q, k, v, places, scale=scaling, causal=causal).unsqueeze(0), None


def _mask(*given: Any, **named: Any) -> torch.Tensor | None:
    return sdpa_mask(*given, **named) if _CURRENT.get() is None else None


ALL_ATTENTION_FUNCTIONS.register(NAME, _forward)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)


class _Scatter(torch.autograd.Function):
    """x at the padded places; the gradients of padding, which nobody reads, are left out."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Gather(torch.autograd.Function):
    """x without the padded places, whose gradient is zero."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        ctx.places = x.shape[0]
        return x.index_select(0, back)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        spread = gradient.new_zeros(ctx.places, *gradient.shape[1:])
        return spread.index_copy_(0, ctx.saved_tensors[0], gradient), None


def _spread(x: torch.Tensor, index: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    if index is None:
        return x
    spread: torch.Tensor = _Scatter.apply(x, *index)  # type: ignore[no-untyped-call]
    return spread


def _rows(x: torch.Tensor, rows: int, heads: int) -> torch.Tensor:
    """(R, H, T, D) of (R·T, H', D); keys and values that heads share are repeated."""
    apart = x.reshape(rows, -1, *x.shape[1:]).transpose(1, 2)
    return apart if apart.shape[1] == heads else apart.repeat_interleave(heads // apart.shape[1], dim=1)


def _alike(lengths: Ints) -> Iterator[Ints]:
    """The numbers of the rows, longest first, in runs that are padded together."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    for place, row in enumerate(order):
        if lengths[row] < SHORTER * lengths[order[start]]:
            yield order[start:place]
            start = place
    yield order[start:]


def _padded(rows: Ints, counts: Ints) -> tuple[Ints, Flags]:
    """(R, T) which token each padded place of some rows repeats, and whether it is the token's own place."""
    starts = np.cumsum(counts) - counts
    steps = np.arange(counts[rows].max())
    places = starts[rows][:, None] + np.minimum(steps, counts[rows][:, None] - 1)
    return places, steps < counts[rows][:, None]


def _index(padded: Sequence[tuple[Ints, Flags]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
    index = np.concatenate([places.ravel() for places, _ in padded])
    own = np.concatenate([flags.ravel() for _, flags in padded])
    if own.all() and (index == np.arange(len(index))).all():
        return None
    back = np.empty(own.sum(), dtype=np.int64)
    back[index[own]] = np.flatnonzero(own)
    return torch.from_numpy(index).to(device), torch.from_numpy(back).to(device)


def _group(keys: tuple[Ints, Flags], queries: Ints | None, inside: Ints | None, device: torch.device) -> Group:
    own = None if keys[1].all() else torch.from_numpy(keys[1])[:, None, None].to(device)
    rows, longest = keys[0].shape
    if queries is None or inside is None:
        return Group(rows, longest, longest, own, None)
    before = np.arange(longest) <= inside[queries][:, :, None]
    return Group(rows, queries.shape[1], longest, own, torch.from_numpy(before)[:, None].to(device))
