"""One layer of each family written out: for some of its tokens alone, and from projections that are known already.

What the loss reads behind the last layer is a few tokens: there queries, the attention's output and the MLP are those
tokens' alone. Shape suffixes: N = tokens of the stream, M = those that are wanted, W = width of a projection, D = of
the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fedtune.adapters.layers import base_of
from fedtune.cohort.attention import attend
from fedtune.cohort.places import Places
from fedtune.cohort.stream import Stream


@dataclass(frozen=True, eq=False)
class Ask:
    """What is asked of a layer: which tokens are wanted of it, and what is known of it before."""

    places: Places
    """How the wanted tokens look at their row's."""
    wanted: torch.Tensor | None = None
    """(M,) the places in the stream; None for all."""
    known: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """By the projection's name in the layer, what its frozen weight gives: (N, W), or (M, W) of queries."""

    @classmethod
    def of(cls, stream: Stream, *, read: bool, known: Mapping[str, torch.Tensor] | None = None) -> "Ask":
        """All tokens of a stream, or those that the loss reads."""
        if read:
            return cls(stream.read_to_all, stream.read, known or {})
        return cls(stream.all_to_all, None, known or {})

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

    def attention(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, width: int, scale: float, causal: bool
    ) -> torch.Tensor:
        """(1, M, heads · width) from (1, M, …) queries and (1, N, …) keys and values; heads stand side by side."""
        q, k, v = (x.reshape(x.shape[1], -1, width) for x in (q, k, v))
        return attend(q, k, v, self.places, scale=scale, causal=causal).flatten(1).unsqueeze(0)


def frozen_part(module: nn.Module) -> nn.Module:
    """The base model's own layer inside one client's adapter or a cohort's."""
    return base_of(getattr(module, "alone", module))


Layer = Any
Rotary = tuple[torch.Tensor, torch.Tensor] | None


def _bert(layer: Layer, hidden: torch.Tensor, ask: Ask, _: Rotary) -> torch.Tensor:
    attention = layer.attention.self
    q, k, v = _qkv(layer, "attention.self", ("query", "key", "value"), hidden, ask)
    width, scale = attention.attention_head_size, attention.scaling
    mixed = ask.attention(q, k, v, width=width, scale=scale, causal=attention.is_causal)
    output: torch.Tensor = layer.feed_forward_chunk(layer.attention.output(mixed, ask.own(hidden)))
    return output


def _distilbert(layer: Layer, hidden: torch.Tensor, ask: Ask, _: Rotary) -> torch.Tensor:
    attention = layer.attention
    q, k, v = _qkv(layer, "attention", ("q_lin", "k_lin", "v_lin"), hidden, ask)
    mixed = ask.attention(q, k, v, width=attention.attention_head_size, scale=attention.scaling, causal=False)
    between = layer.sa_layer_norm(attention.out_lin(mixed) + ask.own(hidden))
    output: torch.Tensor = layer.output_layer_norm(layer.ffn(between) + between)
    return output


def _vit(layer: Layer, hidden: torch.Tensor, ask: Ask, _: Rotary) -> torch.Tensor:
    attention = layer.attention
    q, k, v = _qkv(layer, "attention", ("q_proj", "k_proj", "v_proj"), layer.layernorm_before(hidden), ask)
    mixed = ask.attention(q, k, v, width=attention.head_dim, scale=attention.scaling, causal=False)
    between = layer.dropout(attention.o_proj(mixed)) + ask.own(hidden)
    output: torch.Tensor = layer.dropout(layer.mlp(layer.layernorm_after(between))) + between
    return output


def _llama(layer: Layer, hidden: torch.Tensor, ask: Ask, rotary: Rotary) -> torch.Tensor:
    attention, width = layer.self_attn, layer.self_attn.head_dim
    q, k, v = _qkv(layer, "self_attn", ("q_proj", "k_proj", "v_proj"), layer.input_layernorm(hidden), ask)
    q, k = (x.reshape(*x.shape[:2], -1, width) for x in (q, k))
    if hasattr(attention, "q_norm"):
        q, k = attention.q_norm(q), attention.k_norm(k)
    if rotary is not None:
        q, k = _rotated(q, *map(ask.own, rotary)), _rotated(k, *rotary)
    mixed = ask.attention(q, k, v, width=width, scale=attention.scaling, causal=True)
    between = ask.own(hidden) + attention.o_proj(mixed)
    output: torch.Tensor = between + layer.mlp(layer.post_attention_layernorm(between))
    return output


def _gpt2(layer: Layer, hidden: torch.Tensor, ask: Ask, _: Rotary) -> torch.Tensor:
    attention = layer.attn
    q, k, v = torch.split(ask.project(layer, "attn.c_attn", layer.ln_1(hidden)), attention.split_size, dim=2)
    mixed = ask.attention(ask.own(q), k, v, width=attention.head_dim, scale=attention.scaling, causal=True)
    between = attention.resid_dropout(attention.c_proj(mixed)) + ask.own(hidden)
    output: torch.Tensor = between + layer.mlp(layer.ln_2(between))
    return output


def _qkv(
    layer: nn.Module, inside: str, names: tuple[str, str, str], x: torch.Tensor, ask: Ask
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q, k, v = (f"{inside}.{name}" for name in names)
    return ask.project(layer, q, ask.own(x)), ask.project(layer, k, x), ask.project(layer, v, x)


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


def _one(inside: str, q: str, k: str, v: str, norm: str | None, forward: Callable[..., torch.Tensor]) -> Written:
    return Written(forward, norm, (f"{inside}.{q}",), (f"{inside}.{k}", f"{inside}.{v}"))


_BERT = _one("attention.self", "query", "key", "value", None, _bert)
_LLAMA = _one("self_attn", "q_proj", "k_proj", "v_proj", "input_layernorm", _llama)
WRITTEN: dict[str, Written] = {
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": _one("attention", "q_lin", "k_lin", "v_lin", None, _distilbert),
    "vit": _one("attention", "q_proj", "k_proj", "v_proj", "layernorm_before", _vit),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "mistral": _LLAMA,
    "gpt2": Written(_gpt2, "ln_1", (), ("attn.c_attn",)),
}
"""By `model_type`. Not among them: DINOv2, whose classifier reads every token."""
