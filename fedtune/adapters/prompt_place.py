"""Puts soft prompts into a whole model: the same model, called as before, with hooks where the prompt comes in.

Texts get it in front of their first token, before positions are added, as PEFT's prompt tuning does: a classifier that
reads the first token reads the prompt's. What the prompt's last token would predict, the first one of a row, nothing
asks for, as without a prompt. Images get it behind the class token, after positions were added.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedtune.adapters.prompt_layer import NAME, PromptLayer
from fedtune.adapters.prompt_start import image_start, text_start
from fedtune.errors import AdapterError, ModelError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection, Recipe
from fedtune.split.family import FAMILIES, Family
from fedtune.split.prompt import extend_mask, remove


def place_prompt(loaded: LoadedModel, section: AdapterSection, task: str) -> PromptLayer:
    """Put a new prompt into the model; raises AdapterError, and changes nothing, where the model takes none."""
    model: Any = loaded.model
    family = _family(loaded, task)
    base = model.get_submodule(str(model.base_model_prefix))
    if family.task == "image-classification":
        place: nn.Module = base.get_submodule(family.embeddings)
        projection = place.get_parameter("patch_embeddings.projection.weight")
        layer = PromptLayer(image_start(section, projection).to(projection.device), family.prompt_at)
        place.register_forward_hook(_behind_embeddings)
        if family.norm and not family.reads_first:
            base.get_submodule(family.norm).register_forward_hook(_Without(layer.tokens, layer.at))
    else:
        place, words = model, model.get_input_embeddings().weight
        layer = PromptLayer(text_start(section, words).to(words.device), 0)
        model.register_forward_pre_hook(_before_tokens, with_kwargs=True)
    place.add_module(NAME, layer)
    return layer


def find_prompt(model: nn.Module) -> tuple[str, int] | None:
    """Where the model's prompt is and how many tokens it has; None where the model has none."""
    found = ((name, module.tokens) for name, module in model.named_modules() if isinstance(module, PromptLayer))
    return next(found, None)


def check_room(recipe: Recipe, config: Any) -> None:
    """Raise ModelError where a text of `model.max_length` has no room for its prompt."""
    longest, tokens = getattr(config, "max_position_embeddings", None), recipe.adapter.prompt_tokens
    if recipe.adapter.kind != "prompt" or recipe.model.task == "image-classification" or not longest:
        return
    if recipe.model.max_length + tokens > longest:
        raise ModelError(
            f"{recipe.model.name} reads at most {longest} tokens, and {tokens} of them are the soft prompt's "
            f"(adapter.prompt_tokens), so model.max_length = {recipe.model.max_length} must become "
            f"{max(0, longest - tokens)} or less."
        )


def _family(loaded: LoadedModel, task: str) -> Family:
    config: Any = loaded.model.config
    family = FAMILIES.get(config.model_type)
    if family is None or family.task != task:
        raise AdapterError(
            f'adapter.kind = "prompt" does not know where the tokens of a {config.model_type} model for {task} are; '
            f'set kind = "lora", or use a model of one of the families '
            f"{', '.join(name for name, one in FAMILIES.items() if one.task == task)}"
        )
    return family


def _before_tokens(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Embed the tokens and put the prompt before them; embeddings that are given have it already."""
    if args:
        kwargs = dict(zip(inspect.signature(model.forward).parameters, args, strict=False)) | kwargs
    ids = kwargs.pop("input_ids", None)
    if ids is None:
        return (), kwargs
    if kwargs.get("position_ids") is not None or kwargs.get("past_key_values") is not None:
        raise AdapterError("a soft prompt counts positions itself; call the model with all tokens, without a cache")
    prompt: Any = model.get_submodule(NAME)
    kwargs["inputs_embeds"] = prompt(model.get_input_embeddings()(ids))
    tokens = kwargs["inputs_embeds"].shape[1] - ids.shape[1]
    kwargs["attention_mask"] = extend_mask(kwargs.get("attention_mask"), tokens, 0)
    if (kinds := kwargs.get("token_type_ids")) is not None:
        kwargs["token_type_ids"] = torch.cat((kinds.new_zeros(len(kinds), tokens), kinds), dim=1)
    if FAMILIES[model.config.model_type].task == "causal-lm":
        kwargs.setdefault("logits_to_keep", ids.shape[1])  # those of the given tokens
    return (), kwargs


def _behind_embeddings(embeddings: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
    prompted: torch.Tensor = embeddings.get_submodule(NAME)(output)
    return prompted


@dataclass(frozen=True)
class _Without:
    """Takes the prompt out again, for a head that reads every token."""

    tokens: int
    at: int

    def __call__(self, _module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return remove(output, self.tokens, self.at)
