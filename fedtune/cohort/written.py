"""One layer of each family written out: for some of its tokens alone, and from projections that are known already.

What the loss reads behind the last layer is a few tokens: there queries, the attention's output and the MLP are those
tokens' alone. Shape suffixes: N = tokens of the stream, M = those that are wanted, W = width of a projection, D = of
the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fedtune.cohort.ask import Ask, Names

Layer = Any
Rotary = tuple[torch.Tensor, torch.Tensor] | None
_BERT: Names = ("attention.self.query", "attention.self.key", "attention.self.value")
_DISTILBERT: Names = ("attention.q_lin", "attention.k_lin", "attention.v_lin")
_VIT: Names = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
_LLAMA: Names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def _bert(layer: Layer, hidden: torch.Tensor, ask: Ask, _: Rotary) -> torch.Tensor:
    attention = layer.attention.self
    width, scale, causal = attention.attention_head_size, attention.scaling, attention.is_causal
    mixed = ask.mix(layer, _BERT, hidden, width=width, scale=scale, causal=causal, dropout=attention.dropout.p)
    output: torch.Tensor = layer.feed_forward_chunk(layer.attention.output(mixed, ask.own(hidden)))
    return output


def _distilbert(layer: Layer, hidden: torch.Tensor, ask: Ask, _: Rotary) -> torch.Tensor:
    attention = layer.attention
    width, scale, dropout = attention.attention_head_size, attention.scaling, attention.dropout.p
    mixed = ask.mix(layer, _DISTILBERT, hidden, width=width, scale=scale, dropout=dropout)
    between = layer.sa_layer_norm(attention.out_lin(mixed) + ask.own(hidden))
    output: torch.Tensor = layer.output_layer_norm(layer.ffn(between) + between)
    return output


def _vit(layer: Layer, hidden: torch.Tensor, ask: Ask, _: Rotary) -> torch.Tensor:
    attention = layer.attention
    mixed = ask.mix(layer, _VIT, layer.layernorm_before(hidden), width=attention.head_dim, scale=attention.scaling)
    between = layer.dropout(attention.o_proj(mixed)) + ask.own(hidden)
    output: torch.Tensor = layer.dropout(layer.mlp(layer.layernorm_after(between))) + between
    return output


def _llama(layer: Layer, hidden: torch.Tensor, ask: Ask, rotary: Rotary) -> torch.Tensor:
    attention, width = layer.self_attn, layer.self_attn.head_dim
    x = layer.input_layernorm(hidden)
    q, k, v = (ask.project(layer, name, y) for name, y in zip(_LLAMA, (ask.own(x), x, x), strict=True))
    q, k = (x.reshape(*x.shape[:2], -1, width) for x in (q, k))
    if hasattr(attention, "q_norm"):
        q, k = attention.q_norm(q), attention.k_norm(k)
    if rotary is not None:
        q, k = _rotated(q, *map(ask.own, rotary)), _rotated(k, *rotary)
    scale, dropout = attention.scaling, attention.attention_dropout
    mixed = ask.attention(q, k, v, width=width, scale=scale, causal=True, dropout=dropout)
    between = ask.own(hidden) + attention.o_proj(mixed)
    output: torch.Tensor = between + layer.mlp(layer.post_attention_layernorm(between))
    return output


def _gpt2(layer: Layer, hidden: torch.Tensor, ask: Ask, _: Rotary) -> torch.Tensor:
    attention = layer.attn
    q, k, v = torch.split(ask.project(layer, "attn.c_attn", layer.ln_1(hidden)), attention.split_size, dim=2)
    width, scale, dropout = attention.head_dim, attention.scaling, attention.attn_dropout.p
    mixed = ask.attention(ask.own(q), k, v, width=width, scale=scale, causal=True, dropout=dropout)
    between = attention.resid_dropout(attention.c_proj(mixed)) + ask.own(hidden)
    output: torch.Tensor = between + layer.mlp(layer.ln_2(between))
    return output


def _rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (arXiv 2104.09864) on (1, M, H, width); cosines and sines are (1, M, width)."""
    left, right = heads.chunk(2, dim=-1)
    return heads * cos.unsqueeze(2) + torch.cat((-right, left), dim=-1) * sin.unsqueeze(2)


@dataclass(frozen=True, slots=True)
class Written:
    """One row of the table of written layers; names are those inside a layer."""

    forward: Callable[[Layer, torch.Tensor, Ask, Rotary], torch.Tensor]
    """From the layer and its input (1, N, D) to its output for the wanted tokens, (1, M, D)."""
    norm: str | None
    """What the projections read the layer's input through."""
    queries: tuple[str, ...]
    """Projections of the wanted tokens."""
    others: tuple[str, ...]
    """Projections of all tokens."""
    mixes: bool
    """May one wanted token a row do without those of all tokens? Not where what is between depends on positions."""


def _of(forward: Callable[..., torch.Tensor], names: Names, norm: str | None = None, *, mixes: bool = True) -> Written:
    return Written(forward, norm, names[:1], names[1:], mixes)


WRITTEN: dict[str, Written] = {
    "bert": _of(_bert, _BERT),
    "roberta": _of(_bert, _BERT),
    "distilbert": _of(_distilbert, _DISTILBERT),
    "vit": _of(_vit, _VIT, "layernorm_before"),
    **dict.fromkeys(("llama", "qwen2", "qwen3", "mistral"), _of(_llama, _LLAMA, "input_layernorm", mixes=False)),
    "gpt2": Written(_gpt2, "ln_1", (), ("attn.c_attn",), mixes=False),
}
"""By `model_type`. Not among them: DINOv2, whose classifier reads every token."""
