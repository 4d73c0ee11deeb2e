"""Attaches the adapter that a recipe names to a loaded base model."""

from collections.abc import Callable

from fedtune.adapters.base import Attached
from fedtune.adapters.full import Full
from fedtune.adapters.library import Library
from fedtune.adapters.lora import Lora
from fedtune.adapters.prompt import Prompt
from fedtune.adapters.ravan import Ravan
from fedtune.adapters.square import Square
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.recipe.adapter import AdapterKind

KINDS: dict[AdapterKind, Callable[[LoadedModel, AdapterSection, str], Attached]] = {
    "lora": Lora,
    "square": Square,
    "ravan": Ravan,
    "peft": Library,
    "prompt": Prompt,
    "full": Full,
}
"""The adapter classes by `adapter.kind`."""


def attach(loaded: LoadedModel, section: AdapterSection, *, task: str) -> Attached:
    """Put the adapter in place on `loaded.model`; the base weights are frozen and stay bit-identical.

    Call the result's `model` as the base model is called; outputs have the same shapes. At the start low-rank adapters
    compute what the base model computes. `task` is the recipe's `model.task`. Raises AdapterError where the section
    does not fit the model, or the model carries an adapter.
    """
    return KINDS[section.kind](loaded, section, task)
