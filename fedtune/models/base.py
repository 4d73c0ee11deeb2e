"""What a loaded base model is to the rest of the library."""

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A pretrained model in memory, frozen, with what turns its inputs into tensors."""

    model: nn.Module
    """A `transformers` model with the task's head, in eval mode, every parameter frozen."""
    processor: Any
    """The tokenizer of a text model; the `ImageTransform` of an image model."""
    fingerprint: str
    """32 hex digits over the config and samples of the base weights (the task head left out)."""
    head: tuple[str, ...]
    """Dotted names of the modules that make up the task head (`classifier`, …); empty for `causal-lm`."""
    source: str
    """What PEFT's `base_model_name_or_path` should say: the catalogue name, folder or Hub id."""
