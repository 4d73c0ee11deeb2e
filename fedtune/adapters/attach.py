"""Put the adapter of a recipe on a loaded model."""

from collections.abc import Callable

from fedtune.adapters.base import Attached
from fedtune.adapters.lora import LoraAdapter
from fedtune.adapters.square import SquareAdapter
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection

ADAPTERS: dict[str, Callable[..., Attached]] = {"square": SquareAdapter, "lora": LoraAdapter}
"""Every kind of adapter by its name in a recipe."""


def attach(loaded: LoadedModel, section: AdapterSection, *, task: str) -> Attached:
    """Attach in place: base weights stay frozen and as they are; raises AdapterError where the two do not fit."""
    loaded.model.requires_grad_(False)
    return ADAPTERS[section.kind](loaded, section, task=task)
