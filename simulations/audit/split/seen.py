"""What the coordinator sees at every depth: the tokens of rows behind so many layers, coded and blurred as sent."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedtune.data.base import Batch
from fedtune.data.rows import EncodedRows
from fedtune.models.base import LoadedModel
from fedtune.privacy.noise import NoiseSource, SecureNoise
from fedtune.recipe import Recipe
from fedtune.seeds import derive_seed
from fedtune.split.activations import roundtrip
from fedtune.split.cut import Cut
from fedtune.split.family import family_of
from fedtune.split.load import load_client_part
from fedtune.split.noise import blurred
from fedtune.split.parts import ClientParts

BATCH = 32


@dataclass(frozen=True, slots=True)
class Seen:
    """The tokens of some rows at one depth; paddings are left out."""

    hidden: torch.Tensor
    """(N, D) fp32."""
    place: torch.Tensor
    """(N,) a token's index in its row."""
    row: torch.Tensor
    """(N,) which row, from 0."""

    def of_rows(self, first: int, end: int) -> "Seen":
        """The tokens of the rows from `first` up to `end`."""
        chosen = (self.row >= first) & (self.row < end)
        return Seen(self.hidden[chosen], self.place[chosen], self.row[chosen] - first)


class Observer:
    """All but the last layer of the recipe's model, as the coordinator holds them: they are public and frozen.

    Soft prompts are left out: the coordinator aggregates them, and so knows them too.
    """

    def __init__(self, recipe: Recipe, layers: int, *, noise: NoiseSource | None = None) -> None:
        """`layers` of the whole model; raises ModelError."""
        self.recipe, self.depths = recipe, layers
        self._noise = noise or SecureNoise()
        split = recipe.split.model_copy(update={"head_layers": layers - 1, "tail_layers": 0})
        seed = derive_seed(recipe.run.seed, "head")
        self.loaded: LoadedModel = load_client_part(recipe.model, split, device=torch.device("cpu"), seed=seed)

    def parts(self, depth: int) -> ClientParts:
        """The client's half at a cut behind `depth` layers; its `head` is the one whose activations leave."""
        cut = Cut(depth, 1, self.depths - 1 - depth)
        return ClientParts.of(self.loaded.model, cut, self.recipe.model.task)

    @torch.no_grad()
    def see(self, rows: EncodedRows) -> list[Seen]:
        """The tokens of `rows` at every depth, from 0 (the embeddings) to all layers but one."""
        found: list[list[Seen]] = [[] for _ in range(self.depths)]
        for start, batch in _batches(rows):
            for depth, hidden in enumerate(self._pass(batch)):
                found[depth].append(self._leaving(hidden, batch.get("attention_mask"), start))
        return [_joined(parts) for parts in found]

    def _pass(self, batch: Batch) -> list[torch.Tensor]:
        """(B, T, D) before each layer of the part and behind the last, in one pass."""
        model: Any = self.loaded.model
        base = model.get_submodule(model.base_model_prefix)
        _, layers = family_of(model.config).layers_of(base)
        with _inputs_of(layers) as noted:
            last = self.parts(self.depths - 1).head(batch).hidden
        return [*noted, last]

    def _leaving(self, hidden: torch.Tensor, mask: torch.Tensor | None, start: int) -> Seen:
        split = self.recipe.split
        sent = roundtrip(blurred(hidden.float(), split, self._noise), split.activations, split.topk)
        there = torch.ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        row, place = there.nonzero(as_tuple=True)
        return Seen(sent[there], place, row + start)


def _batches(rows: EncodedRows) -> Iterator[tuple[int, Batch]]:
    for start in range(0, len(rows), BATCH):
        yield start, rows.batch(range(start, min(start + BATCH, len(rows))))


@contextmanager
def _inputs_of(layers: Iterable[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """The hidden states that each layer is given within the block, in order."""
    noted: list[torch.Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        noted.append(args[0] if args else kwargs["hidden_states"])

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(note, with_kwargs=True).remove)
        yield noted


def _joined(parts: list[Seen]) -> Seen:
    return Seen(
        torch.cat([part.hidden for part in parts]),
        torch.cat([part.place for part in parts]),
        torch.cat([part.row for part in parts]),
    )
