"""A whole model with soft prompts, layer by layer, with masks made by hand: what split models are compared with."""

from typing import Any

import torch
from torch import nn

from fedtune.split.prompt import Prompts
from tests.split.split_models import Split, base_of


def by_loop(
    model: Any, parts: Split, inputs: dict[str, torch.Tensor], *, body: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and logits of the whole model with the prompts, layer by layer, with masks made by hand."""
    family, cut, prompts = parts.parts.family, parts.body.cut, parts.prompts
    causal = family.task == "causal-lm"
    base, at = base_of(model), 0 if causal else 1
    mask = inputs.get("attention_mask")
    hidden = _embedded(base, inputs)
    if family.name == "gpt2" and prompts.at_cut:
        hidden = hidden + base.wpe.weight[: hidden.shape[1]]
    client = 0
    for number, layer in enumerate(family.layers_of(base)[1]):
        mine = number in cut.client_layers()
        if (number == 0 and not prompts.at_cut) or (number == cut.head and prompts.at_cut):
            hidden, mask = _put_in(hidden, mask, prompts, at)
            if family.name == "gpt2" and not prompts.at_cut:
                hidden = hidden + base.wpe.weight[: hidden.shape[1]]
        if mine and prompts.deep(client) is not None:
            own = prompts.deep(client).expand(hidden.shape[0], -1, -1)
            hidden = torch.cat((hidden[:, :at], own, hidden[:, at + prompts.tokens :]), 1)
        if mine or body:
            hidden = _layer(base, layer, hidden, mask, causal=causal)
        client += mine
    hidden = torch.cat((hidden[:, :at], hidden[:, at + prompts.tokens :]), 1)
    if family.norm:
        hidden = base.get_submodule(family.norm)(hidden)
    logits = _logits(model, family.name, hidden)
    labels = inputs["labels"]
    if not causal:
        return nn.functional.cross_entropy(logits, labels), logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), logits


def _embedded(base: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    name = next(name for name in ("embeddings", "wte", "embed_tokens") if hasattr(base, name))
    hidden: torch.Tensor = base.get_submodule(name)(next(iter(inputs.values())))
    return hidden


def _put_in(
    hidden: torch.Tensor, mask: torch.Tensor | None, prompts: Prompts, at: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    rows = prompts.input.expand(hidden.shape[0], -1, -1)
    hidden = torch.cat((hidden[:, :at], rows, hidden[:, at:]), 1)
    if mask is not None:
        mask = torch.cat((torch.ones(mask.shape[0], prompts.tokens, dtype=mask.dtype), mask), 1)  # ones first: texts
    return hidden, mask


def _layer(
    base: Any, layer: nn.Module, hidden: torch.Tensor, mask: torch.Tensor | None, *, causal: bool
) -> torch.Tensor:
    length = hidden.shape[1]
    allowed = torch.ones(hidden.shape[0], 1, length, length, dtype=torch.bool)
    if mask is not None:
        allowed &= mask[:, None, None, :].bool()
    if causal:
        allowed &= torch.ones(length, length, dtype=torch.bool).tril()
    bias = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    more: dict[str, Any] = {}
    if hasattr(base, "rotary_emb"):
        more["position_embeddings"] = base.rotary_emb(hidden, torch.arange(length)[None])
    output: torch.Tensor = layer(hidden, attention_mask=bias, **more)
    return output


def _logits(model: Any, family: str, hidden: torch.Tensor) -> torch.Tensor:
    if family == "dinov2":
        logits: torch.Tensor = model.classifier(torch.cat((hidden[:, 0], hidden[:, 1:].mean(1)), 1))
    elif family == "vit":
        logits = model.classifier(hidden[:, 0])
    elif family == "bert":
        logits = model.classifier(model.bert.pooler(hidden))
    elif family == "roberta":
        logits = model.classifier(hidden)
    elif family == "distilbert":
        logits = model.classifier(torch.relu(model.pre_classifier(hidden[:, 0])))
    else:
        logits = model.lm_head(hidden)
    return logits
