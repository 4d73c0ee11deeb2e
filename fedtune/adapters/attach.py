"""Attaches the adapter that a recipe names to a loaded base model."""

from collections.abc import Callable

from fedtune.adapters.lora import Lora
from fedtune.adapters.low_rank import LowRank
from fedtune.adapters.square import Square
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection

KINDS: dict[str, Callable[[LoadedModel, AdapterSection, str], LowRank]] = {"lora": Lora, "square": Square}
"""The adapter classes by `adapter.kind`."""


def attach(loaded: LoadedModel, section: AdapterSection, *, task: str) -> LowRank:
    """Put the adapter in place on `loaded.model`; the base weights are frozen and stay bit-identical.

    Call `loaded.model` as before. At the start it computes what it computed without the adapter. `task` is the recipe's
    `model.task`. Raises AdapterError where the section does not fit the model, or the model carries an adapter.
    """
    return KINDS[section.kind](loaded, section, task)
