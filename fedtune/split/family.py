"""The families of models that can be split: where each keeps its embeddings, layers, norm, and what its head reads."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from fedtune.errors import ModelError
from fedtune.recipe.model import Task


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table of families; paths are dotted names inside the base model."""

    name: str
    """The config's `model_type`."""
    task: Task
    """The one task that its split model can do."""
    layers: tuple[str, ...]
    """The list of layers; where versions of transformers differ, each name, the newest first."""
    embeddings: str
    """What turns a batch into vectors: for a causal LM the token embedding alone, for others all before the layers."""
    norm: str | None = None
    """The norm behind the last layer."""
    positions: str | None = None
    """A position embedding outside of `embeddings`."""
    dropout: str | None = None
    """The dropout behind `positions`."""
    pooler: str | None = None
    reads_first: bool = False
    """Does the task head read the first token alone?"""

    def layers_of(self, base: nn.Module) -> tuple[str, nn.ModuleList]:
        """The list of layers in a base model of this family, and its name there; ModelError where there is none."""
        known = dict(base.named_modules())
        for path in self.layers:
            if isinstance(found := known.get(path), nn.ModuleList):
                return path, found
        raise ModelError(f"This {self.name} model keeps its layers elsewhere: use another version of transformers.")

    @property
    def hidden(self) -> str:
        """The argument of the base model that can carry hidden states past the embeddings."""
        return "pixel_values" if self.task == "image-classification" else "inputs_embeds"

    @property
    def prompt_at(self) -> int:
        """The index at which soft prompts stand: behind a class token, at the front of a causal LM."""
        return 0 if self.task == "causal-lm" else 1


def _decoder(name: str) -> Family:
    return Family(name, "causal-lm", ("layers",), "embed_tokens", norm="norm")


def _encoder(name: str, layers: str = "encoder.layer", pooler: str | None = "pooler") -> Family:
    return Family(name, "sequence-classification", (layers,), "embeddings", pooler=pooler, reads_first=True)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "vit",
            "image-classification",
            ("layers", "encoder.layer"),
            "embeddings",
            norm="layernorm",
            pooler="pooler",
            reads_first=True,
        ),
        Family("dinov2", "image-classification", ("encoder.layer",), "embeddings", norm="layernorm"),
        _encoder("bert"),
        _encoder("roberta"),
        _encoder("distilbert", "transformer.layer", None),
        _decoder("llama"),
        _decoder("qwen2"),
        _decoder("qwen3"),
        _decoder("mistral"),
        Family("gpt2", "causal-lm", ("h",), "wte", norm="ln_f", positions="wpe", dropout="drop"),
    )
}
"""The supported families by `model_type`."""


def family_of(config: Any) -> Family:
    """The family of a model's config.

    Raises ModelError for an architecture that is not supported, and for one whose layers differ by their place or see
    a sliding window.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ModelError(
            f'A {config.model_type} model cannot be split: set split.head_layers = "none", or use a model of '
            f"one of the families {', '.join(FAMILIES)}."
        )
    if len(set(getattr(config, "layer_types", None) or ())) > 1 or getattr(
        config, "scale_attn_by_inverse_layer_idx", False
    ):
        raise ModelError(
            f"This {config.model_type} model cannot be split, because what its layers compute depends on their "
            f'number: set split.head_layers = "none", or use a model whose layers are all of one kind.'
        )
    if config.model_type == "mistral" and config.sliding_window is not None:
        raise ModelError(
            f"This mistral model cannot be split, because each of its tokens reads the last {config.sliding_window} "
            'alone: set split.head_layers = "none", or use a version without a sliding window, as from 0.2 on.'
        )
    return family


def check_split_task(task: Task, family: Family) -> None:
    """Raise ModelError where the split model of this family cannot do the recipe's task."""
    if task != family.task:
        raise ModelError(
            f"A {family.name} model can be split for {family.task} alone, not for {task}: set "
            f'split.head_layers = "none".'
        )
