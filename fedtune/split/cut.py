"""Where a model is cut: how many layers each part has, and which numbers they have in the part and in the whole."""

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedtune.errors import ModelError
from fedtune.recipe.split import SplitSection

LAYER = re.compile(r"(?<![^.])(?:layers?|h)\.(\d+)(?=\.)")
"""A layer's number in the name of a tensor, in a checkpoint or in a model, of every family."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The layers of head, body and tail, in this order."""

    head: int
    body: int
    tail: int

    @property
    def client(self) -> int:
        """How many layers the client keeps."""
        return self.head + self.tail

    @property
    def whole(self) -> int:
        """How many layers the whole model has."""
        return self.head + self.body + self.tail

    def client_layers(self) -> tuple[int, ...]:
        """The numbers in the whole model of the client's layers, in their order in the client part."""
        return (*range(self.head), *range(self.head + self.body, self.whole))

    def body_layers(self) -> tuple[int, ...]:
        """The numbers in the whole model of the body's layers."""
        return tuple(range(self.head, self.head + self.body))


def cut_of(section: SplitSection, config: Any) -> Cut:
    """The cut that a recipe asks for, in a model with this config.

    Raises ModelError where the recipe asks for none, or where it leaves no layer to the body.
    """
    if section.head_layers is None:
        raise ModelError('The model is not split: set split.head_layers to a number, it is "none".')
    layers = int(config.num_hidden_layers)
    body = layers - section.head_layers - section.tail_layers
    if body < 1:
        raise ModelError(
            f"The model has {layers} layers, and split.head_layers = {section.head_layers} with split.tail_layers = "
            f"{section.tail_layers} leaves none to the body: their sum must be at most {layers - 1}."
        )
    return Cut(section.head_layers, body, section.tail_layers)


def layer_number(name: str) -> int | None:
    """The number of the layer that a tensor belongs to; None for what stands before or behind the layers."""
    found = LAYER.search(name)
    return int(found[1]) if found else None


def renumbered(name: str, numbers: Mapping[int, int]) -> str | None:
    """The tensor's name with another layer number; None where its layer is not among `numbers`.

    A name without a layer stays as it is.
    """
    found = LAYER.search(name)
    if found is None:
        return name
    number = numbers.get(int(found[1]))
    return None if number is None else f"{name[: found.start(1)]}{number}{name[found.end(1) :]}"


def whole_name(name: str, cut: Cut) -> str:
    """What a tensor or module of the client part is called in the whole model."""
    dotted = renumbered(f"{name}.", dict(enumerate(cut.client_layers())))
    if dotted is None:
        raise ModelError(f"{name} is not part of a model that keeps {cut.client} layers.")
    return dotted.removesuffix(".")


def name_of_body(name: str, cut: Cut) -> str:
    """What a tensor or module of the body is called in the whole base model."""
    dotted = renumbered(f"{name}.", dict(enumerate(cut.body_layers())))
    if dotted is None:
        raise ModelError(f"{name} is not part of a body of {cut.body} layers.")
    return dotted.removesuffix(".")


def shortened(config: Any, layers: tuple[int, ...]) -> Any:
    """A copy of a config for a model of these layers alone."""
    short = copy.deepcopy(config)
    types = getattr(config, "layer_types", None)
    if types:
        short.layer_types = [types[layer] for layer in layers]
    short.num_hidden_layers = len(layers)
    return short


def with_cut(fingerprint: str, cut: Cut) -> str:
    """The print of a part (32 hex digits), from that of its weights and where the model is cut."""
    return hashlib.sha256(f"{fingerprint}\0{cut.head}\0{cut.body}\0{cut.tail}".encode()).hexdigest()[:32]
