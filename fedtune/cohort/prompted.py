"""Soft prompts in shared passes: each row of a client has the client's own vectors among its tokens.

Shape suffixes: K = clients, R = rows, P = vectors of a prompt, N = tokens of all rows, D = model width.
"""

from dataclasses import dataclass, replace

import torch

from fedtune.adapters.prompt_layer import PromptLayer
from fedtune.cohort.each import each_one
from fedtune.cohort.lane import Lane
from fedtune.cohort.layers import CohortModule
from fedtune.cohort.pack import Packed
from fedtune.cohort.stream import Stream
from fedtune.split.prompt import insert


class CohortPrompt(CohortModule):
    """What `PromptLayer` does, with the vectors of the client that a row belongs to."""

    def __init__(self, alone: PromptLayer, lane: Lane, vectors: str) -> None:
        super().__init__(alone, lane)
        self._at, self._vectors = alone.at, vectors

    def rows(self, count: int) -> torch.Tensor:
        """(count, P, D): what each row of the lane's layout gets."""
        vectors_KPD = self._lane.tensors[self._vectors]
        return each_one(vectors_KPD.flatten(1), self._lane.layout.rows).view(count, *vectors_KPD.shape[1:])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(R, T, D) to (R, T + P, D)."""
        return insert(hidden, self.rows(len(hidden)), self._at)


@dataclass(frozen=True, eq=False)
class Prompted:
    """A stream of texts with a place for P vectors before each row's tokens."""

    packed: Packed
    """Its stream and positions are those with the prompts; `ids` are the N of the tokens alone."""
    order: torch.Tensor
    """(N + R·P,) on the device: what stands at each place, by its number among all tokens and then all vectors."""

    @classmethod
    def of(cls, packed: Packed, tokens: int, first: int) -> "Prompted":
        """The places for so many vectors a row; positions are counted through them from `first` on.

        What a text of answers reads moves with its tokens. A classification reads the first vector.
        """
        stream, device = packed.stream, packed.stream.read.device
        count, own, vectors = len(stream.lengths), torch.tensor(stream.lengths), torch.arange(tokens)
        row_of = torch.arange(count).repeat_interleave(own)
        places = torch.arange(len(row_of)) + (row_of + 1) * tokens
        starts = (own + tokens).cumsum(0) - own - tokens
        order, positions = torch.empty(2, len(row_of) + count * tokens, dtype=torch.int64)
        fronts = (starts[:, None] + vectors).flatten()
        order[places], order[fronts] = torch.arange(len(row_of)), torch.arange(len(fronts)) + len(row_of)
        positions[places], positions[fronts] = packed.positions + tokens, first + vectors.repeat(count)
        inside = packed.inside + (0 if packed.classifies else tokens)
        longer = Stream(
            rows=stream.rows,
            lengths=tuple((own + tokens).tolist()),
            read=(inside + starts.repeat_interleave(torch.tensor(stream.reads))).to(device),
            reads=stream.reads,
            seeds=stream.seeds,
        )
        return cls(replace(packed, stream=longer, positions=positions, inside=inside), order.to(device))

    def embeddings(self, words_ND: torch.Tensor, rows_RPD: torch.Tensor) -> torch.Tensor:
        """What a model is given in the place of `input_ids`, (1, N + R·P, D)."""
        both = torch.cat((words_ND, rows_RPD.to(words_ND.dtype).flatten(0, 1)))
        return both.index_select(0, self.order).unsqueeze(0)
