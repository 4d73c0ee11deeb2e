"""A model from one of its layers on, for a stream of rows; and what stands before that layer.

Both are views (`fedtune.split.views`): the model's own modules, looked up when a pass runs, adapters inside of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fedtune.cohort.ask import Ask
from fedtune.cohort.mapped import alone, maps_of
from fedtune.cohort.stream import Stream
from fedtune.cohort.written import WRITTEN
from fedtune.split.body import bare
from fedtune.split.family import Family
from fedtune.split.views import PassOn, view


@dataclass(frozen=True, eq=False)
class Stack:
    """A task model of a known family, its layers in a row."""

    model: Any
    family: Family
    one_token: bool = True
    """May the last layer do without keys and values, where one token a row is read of it?"""

    @property
    def base(self) -> nn.Module:
        """The base model inside the task model."""
        base: nn.Module = self.model.get_submodule(str(self.model.base_model_prefix))
        return base

    @cached_property
    def at(self) -> str:
        """Where the layers are in the base model."""
        return self.family.layers_of(self.base)[0]

    @property
    def layers(self) -> nn.ModuleList:
        """The model's layers as they are now."""
        layers: Any = self.base.get_submodule(self.at)
        return layers  # type: ignore[no-any-return]

    @cached_property
    def mixes(self) -> bool:
        """Does the last layer do without keys and values, where one token a row is read of it?"""
        written = WRITTEN.get(self.family.name)
        if not self.one_token or written is None or not written.mixes or self.family.task == "causal-lm":
            return False
        layer = self.layers[-1]
        dtype = next(p.dtype for p in layer.parameters() if p.is_floating_point())
        return bool(maps_of([alone(layer.get_submodule(name)) for name in written.others], dtype))

    def before(self, layer: int) -> Any:
        """The base model up to the input of a layer: embeddings and the layers before it, all frozen."""
        parts: dict[str, nn.Module | None] = {self.at: nn.ModuleList(list(self.layers)[:layer])}
        parts |= {name: nn.Identity() for name in (self.family.norm,) if name}
        parts |= {name: None for name in (self.family.pooler,) if name}
        return view(self.base, parts)

    def run(
        self,
        inputs: Mapping[str, torch.Tensor],
        stream: Stream,
        *,
        first: int | None = None,
        known: Mapping[str, torch.Tensor] | None = None,
        prune: bool = False,
    ) -> torch.Tensor:
        """(M, V): logits of the read tokens, or of rows.

        `inputs` are the model's; with `first` they are what that layer reads. `known` are its frozen projections. With
        `prune` the last layer computes the read tokens alone.
        """
        layers = list(self.layers)[first or 0 :] or [_Nothing()]
        prune = prune and not isinstance(layers[-1], _Nothing)
        if known or (prune and len(layers) == 1):
            ask = Ask.of(stream, read=prune and len(layers) == 1, known=known, one=self.one_token)
            layers[0] = _Written(layers[0], self.family, ask)
        if prune and not isinstance(layers[-1], _Written):
            layers[-1] = _Written(layers[-1], self.family, Ask.of(stream, read=True, one=self.one_token))
        if prune or self.family.task != "image-classification":
            layers[-1] = _Read(layers[-1], stream, self.family, pruned=prune)
        parts: dict[str, nn.Module | None] = {self.at: nn.ModuleList(layers)}
        if first is not None:
            kept = (self.family.norm, self.family.pooler)
            parts = {name: other for name, other in bare(self.family).items() if name not in kept} | parts
            self._same_dtype(parts[self.family.embeddings], inputs)
        prefix = str(self.model.base_model_prefix)
        more: dict[str, Any] = {}
        if self.family.task == "causal-lm":
            more = {"use_cache": False, "logits_to_keep": stream.read if self.family.name == "gpt2" else 0}
        model = view(self.model, {f"{prefix}.{name}": other for name, other in parts.items()})
        logits: torch.Tensor = model(**inputs, **more).logits
        return logits.squeeze(0) if self.family.task == "causal-lm" else logits

    def _same_dtype(self, embeddings: nn.Module | None, inputs: Mapping[str, torch.Tensor]) -> None:
        """ViT casts its input to the dtype of its embeddings."""
        if isinstance(embeddings, PassOn):
            weight = torch.empty(0, dtype=inputs[self.family.hidden].dtype)
            embeddings.patch_embeddings.projection.weight = weight


class _Written(nn.Module):
    """A layer that is asked for some of its tokens, or given its projections."""

    def __init__(self, layer: nn.Module, family: Family, ask: Ask) -> None:
        super().__init__()
        self.layer, self._forward, self._ask = layer, WRITTEN[family.name].forward, ask

    def forward(self, hidden: torch.Tensor, *_: Any, **named: Any) -> torch.Tensor:
        """(1, M, D) of the wanted tokens; all tokens in the shape in which they came."""
        stream = hidden.reshape(1, -1, hidden.shape[-1])
        output = self._forward(self.layer, stream, self._ask, named.get("position_embeddings"))
        return output if self._ask.wanted is not None else output.reshape(hidden.shape)


class _Nothing(nn.Module):
    """In the place of layers where all of them are frozen."""

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """The same."""
        return hidden


class _Read(nn.Module):
    """The last layer, behind which there are only the tokens that the loss reads."""

    def __init__(self, layer: nn.Module, stream: Stream, family: Family, *, pruned: bool) -> None:
        super().__init__()
        self.layer, self._stream, self._family, self._pruned = layer, stream, family, pruned

    def forward(self, hidden: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        """(M, 1, D) for a head that reads the first token of each row, (1, M, D) for one that reads each token."""
        output: torch.Tensor = self.layer(hidden, *given, **named)
        if self._family.name == "gpt2":  # it wants as many tokens back as it was given
            return self._spread(output) if self._pruned else output
        read = output if self._pruned else output.index_select(1, self._stream.read)
        return read if self._family.task == "causal-lm" else read.transpose(0, 1)

    def _spread(self, output: torch.Tensor) -> torch.Tensor:
        zeros = output.new_zeros(1, self._stream.total, output.shape[-1])
        return zeros.index_copy(1, self._stream.read, output)
