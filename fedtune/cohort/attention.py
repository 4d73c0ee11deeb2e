"""Attention between the tokens of a row, for rows that stand end to end in one stream without padding.

Shape suffixes: R = rows, N = keys (all tokens), M = queries, P = padded places, H = heads, D = width of a head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fedtune.cohort.drops import Drops, Shares
from fedtune.cohort.places import Index, Places

NAME = "fedtune_rows"
"""What transformers knows this attention by."""


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    places: Places,
    *,
    scale: float | None,
    causal: bool,
    dropped: Shares | None = None,
) -> torch.Tensor:
    """(M, H, D) from queries (M, H, D), and keys and values (N, H', D) with H' a divisor of H; rows apart.

    `dropped` is what becomes of the shares that a query takes of its keys; None where they stay as they are.
    """
    heads = query.shape[1]
    q, k, v = spread(query, places.queries), spread(key, places.keys), spread(value, places.keys)
    sizes_q = [group.rows * group.queries for group in places.groups]
    sizes_k = [group.rows * group.keys for group in places.groups]
    outputs = []
    for group, *apart in zip(
        places.groups, torch.split(q, sizes_q), torch.split(k, sizes_k), torch.split(v, sizes_k), strict=True
    ):
        mask = (group.before if causal else group.own) if group.before is not None or not causal else None
        q_, k_, v_ = (_rows(x, group.rows, heads) for x in apart)
        forward = causal and mask is None and group.queries > 1
        if dropped is None:
            output = scaled_dot_product_attention(q_, k_, v_, attn_mask=mask, scale=scale, is_causal=forward)
        else:
            shares = _shares(q_, k_, mask=mask, scale=scale, causal=forward)
            output = dropped(group, shares).to(v_.dtype) @ v_
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return gather(outputs[0] if len(outputs) == 1 else torch.cat(outputs), places.queries)


def _shares(
    q_RHQD: torch.Tensor, k_RHKD: torch.Tensor, *, mask: torch.Tensor | None, scale: float | None, causal: bool
) -> torch.Tensor:
    """(R, H, Q, K): how much each query takes of each of its row's keys."""
    scores_RHQK = (q_RHQD * (q_RHQD.shape[-1] ** -0.5 if scale is None else scale)) @ k_RHKD.mT
    if causal:
        mask = torch.ones(scores_RHQK.shape[-2:], dtype=torch.bool, device=scores_RHQK.device).tril()
    if mask is not None:
        scores_RHQK = scores_RHQK.masked_fill(~mask, -torch.inf)
    return scores_RHQK.softmax(dim=-1)


def spread(x: torch.Tensor, index: Index | None) -> torch.Tensor:
    """(P, …) of (N, …): what stands at each padded place, as `Places` has it."""
    if index is None:
        return x
    padded: torch.Tensor = _Scatter.apply(x, *index)  # type: ignore[no-untyped-call]
    return padded


def gather(x: torch.Tensor, index: Index | None) -> torch.Tensor:
    """(N, …) of (P, …): without the padding."""
    if index is None:
        return x
    gathered: torch.Tensor = _Gather.apply(x, index[1])  # type: ignore[no-untyped-call]
    return gathered


_CURRENT: ContextVar[tuple[Places, Drops | None] | None] = ContextVar("places", default=None)


@contextmanager
def rows_apart(configs: Sequence[Any], places: Places, drops: Drops | None = None) -> Iterator[None]:
    """Inside, models of these configs take their batch of one, (1, N, …), for a stream of rows.

    `drops` is what they drop of their attention by, where they do.
    """
    before = [config._attn_implementation for config in configs]
    token = _CURRENT.set((places, drops))
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
    current = _CURRENT.get()
    if current is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
        )
        return plain
    places, drops = current
    if more.get("sliding_window"):
        raise ValueError("attention between rows of a stream has no sliding window")
    if dropout and drops is None:
        raise ValueError("rows have no seeds to draw the dropout of their attention by")
    causal = bool(is_causal if is_causal is not None else getattr(module, "is_causal", True))
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    dropped = None if drops is None else drops.shares(dropout, read=places.reads)
    return attend(q, k, v, places, scale=scaling, causal=causal, dropped=dropped).unsqueeze(0), None


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


def _rows(x: torch.Tensor, rows: int, heads: int) -> torch.Tensor:
    """(R, H, T, D) of (R·T, H', D); keys and values that heads share are repeated."""
    apart = x.reshape(rows, -1, *x.shape[1:]).transpose(1, 2)
    return apart if apart.shape[1] == heads else apart.repeat_interleave(heads // apart.shape[1], dim=1)
