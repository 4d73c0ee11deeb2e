"""What a model is made of, read from its config alone: numbers in each part, linear maps, widths, tokens."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedtune.errors import ModelError
from fedtune.models.quiet import quiet_transformers
from fedtune.models.task import auto_class
from fedtune.recipe import ModelSection
from fedtune.split.cut import layer_number, shortened
from fedtune.split.family import Family, check_split_task, family_of

Map = tuple[int, int]
"""(out, in) of a linear map."""
Maps = Mapping[str, Map]
"""By the module's name."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A model without its weights; "numbers" are parameters, each tensor counted once where it is tied."""

    family: Family
    config: Any
    layers: int
    width: int
    """D, numbers a token."""
    attention: int
    """Query heads times their width: what a token's attention is made of."""
    embeddings: int
    """Numbers before the layers."""
    layer: int
    """Numbers in one layer."""
    norm: int
    """Numbers in the norm behind the last layer and the pooler."""
    head: int
    """Numbers in the task head beside the tied embeddings."""
    maps: Maps
    """Of one layer."""
    head_maps: Maps
    """Of pooler and task head."""
    patch: Map | None
    """Of the convolution that makes a patch a token; None for text."""

    @property
    def whole(self) -> int:
        """Numbers in the whole model."""
        return self.embeddings + self.layers * self.layer + self.norm + self.head

    def tokens(self, model: ModelSection, text_tokens: int | None = None) -> int:
        """Tokens of a row without soft prompts: of text `text_tokens`, or `max_length` where that is None."""
        if self.patch is None:
            return min(text_tokens or model.max_length, model.max_length)
        return 1 + (model.image_size // int(self.config.patch_size)) ** 2


def outline_of(model: ModelSection) -> Outline:
    """Read the config of the recipe's model: no weights are read, so that they need not be here.

    Raises ModelError where there is no config, or where its family cannot be split for this task.
    """
    with quiet_transformers():
        config = read_config(model)
        family = family_of(config)
        check_split_task(model.task, family)
        one = empty_model(model, config, layers=1)
    groups = {"embeddings": 0, "layer": 0, "norm": 0, "head": 0}
    for name, parameter in one.named_parameters():
        groups[_group(name, one.base_model_prefix, family)] += parameter.numel()
    maps = {name: found for name, module in one.named_modules() if (found := _map(module))}
    patch = next((_patch(module) for module in one.modules() if isinstance(module, nn.Conv2d)), None)
    return Outline(
        family=family,
        config=config,
        layers=int(config.num_hidden_layers),
        width=int(config.hidden_size),
        attention=int(config.num_attention_heads) * _head_width(config),
        **groups,
        maps={name: found for name, found in maps.items() if layer_number(name) is not None},
        head_maps={name: found for name, found in maps.items() if layer_number(name) is None},
        patch=patch,
    )


def read_config(model: ModelSection) -> Any:
    """The model's config with the recipe's labels; of a folder or a Hub id nothing but `config.json` is read."""
    from transformers import AutoConfig

    source = _config_source(model)
    try:
        config = AutoConfig.from_pretrained(source, revision=model.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"There is no config.json of a model that transformers knows at {model.name!r}.") from error
    if model.labels:
        config.num_labels = len(model.labels)
    return config


def empty_model(model: ModelSection, config: Any, *, layers: int) -> Any:
    """The task's model with so many layers, on the `meta` device: shapes without memory."""
    with torch.device("meta"):
        return auto_class(model.task).from_config(shortened(config, tuple(range(layers))))


def _config_source(model: ModelSection) -> str:
    from fedtune import catalogue
    from fedtune.models.source import PACKAGE_PREFIX, find_model

    if model.name in catalogue.names("model") or model.name.startswith(PACKAGE_PREFIX):
        return str(find_model(model.name, model.revision).folder)
    folder = Path(model.name).expanduser()
    return str(folder) if folder.is_dir() else model.name


def _group(name: str, prefix: str, family: Family) -> str:
    if layer_number(name) is not None:
        return "layer"
    inner = name.removeprefix(f"{prefix}.")
    before = (family.embeddings, family.positions)
    if any(path is not None and inner.startswith(f"{path}.") for path in before):
        return "embeddings"
    behind = (family.norm, family.pooler)
    return "norm" if any(path is not None and inner.startswith(f"{path}.") for path in behind) else "head"


def _map(module: nn.Module) -> Map | None:
    """(out, in) of a linear layer, or of GPT-2's, which is kept the other way round."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D":
        weight = module.get_parameter("weight")
        return weight.shape[1], weight.shape[0]
    return None


def _patch(module: nn.Conv2d) -> Map:
    return module.out_channels, module.in_channels * math.prod(module.kernel_size)


def _head_width(config: Any) -> int:
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)
