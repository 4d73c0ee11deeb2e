"""Rows of several clients become one stream: their tokens, the positions of these, and what is predicted where."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from fedtune.cohort.base import Part
from fedtune.cohort.stream import Stream
from fedtune.data.base import Batch, Rows
from fedtune.data.ragged import Ints
from fedtune.data.rows import EncodedRows
from fedtune.training.forward import IGNORED

Positions = Callable[[torch.Tensor], torch.Tensor]
"""From padded token ids (B, T) to the position that the model gives each."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Text rows that have something to predict; tensors on the CPU, but for the stream's.

    Shape suffixes: N = tokens, M = targets.
    """

    stream: Stream
    ids: torch.Tensor
    """(N,) int64."""
    positions: torch.Tensor
    """(N,) int64: as the model counts them."""
    inside: torch.Tensor
    """(M,) int64: the read tokens, counted from the start of their row."""
    targets: torch.Tensor
    """(M,) int64: a class for the first token of each row, or the id that follows each read token."""
    owners: torch.Tensor
    """(M,) int64: the row of the pass that each target belongs to, rows without a target counted too."""
    classifies: bool
    """Is it a class a row that is predicted?"""

    @cached_property
    def rows(self) -> list[int]:
        """Which rows of the pass are in the stream: those with a target."""
        numbers: list[int] = torch.unique_consecutive(self.owners).tolist()
        return numbers


def pack(
    parts: Sequence[Part],
    positions: Positions,
    device: torch.device,
    seeds: Sequence[int] = (),
    *,
    prompted: bool = False,
) -> Packed | None:
    """The stream of all parts' rows that have a target; None where no row has one.

    `seeds` are what each row's dropout is drawn by, those without a target counted too; none where nothing is dropped.
    `prompted` rows stand behind a prompt, which a classification reads, and may be without a token of their own.
    """
    done = [_Text.of(run, positions, prompted=prompted) for run in _runs(parts)]
    lengths = [length for one in done for length in one.lengths]
    if not lengths:
        return None
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    reads = torch.tensor([count for one in done for count in one.reads])
    inside = torch.cat([one.inside for one in done])
    first = torch.tensor([0, *(one.asked for one in done)]).cumsum(0)[:-1]
    numbers = torch.cat([one.kept + start for one, start in zip(done, first, strict=True)])
    asked = torch.tensor([len(indices) for _, indices in parts])
    of_parts = torch.arange(len(parts)).repeat_interleave(asked)[numbers]
    return Packed(
        Stream(
            rows=tuple(of_parts.bincount(minlength=len(parts)).tolist()),
            lengths=tuple(lengths),
            read=(inside + starts.repeat_interleave(reads)).to(device),
            reads=tuple(reads.tolist()),
            seeds=tuple(seeds[number] for number in numbers.tolist()) if seeds else (),
        ),
        ids=torch.cat([one.ids for one in done]),
        positions=torch.cat([one.positions for one in done]),
        inside=inside,
        targets=torch.cat([one.targets for one in done]),
        owners=numbers.repeat_interleave(reads),
        classifies=all(one.classifies for one in done if len(one.kept)),
    )


def counted(ids_BT: torch.Tensor) -> torch.Tensor:
    """The position of each token, counted from the start of its row."""
    return torch.arange(ids_BT.shape[1]).expand(ids_BT.shape)


def classes(part: Part) -> torch.Tensor:
    """(rows,) int64: what images are of; they are not decoded for it where they need not be."""
    rows, indices = part
    if isinstance(rows, EncodedRows) and rows.classes is not None:
        return torch.from_numpy(rows.classes)[list(indices)]
    return rows.batch(indices)["labels"]


def images(parts: Sequence[Part], tokens: int, device: torch.device) -> Stream:
    """The stream of images, each of so many tokens, whose first one is read."""
    counts = tuple(len(indices) for _, indices in parts)
    read = torch.arange(sum(counts), device=device) * tokens
    return Stream(counts, (tokens,) * sum(counts), read, (1,) * sum(counts))


def pixels_of(rows: Sequence[tuple[Rows, int]]) -> torch.Tensor:
    """(n, C, H, W) of rows of several tables, neighbours of one table read together."""
    runs = _runs([(table, (index,)) for table, index in rows])
    return torch.cat([table.batch(indices)["pixel_values"] for table, indices in runs])


def _runs(parts: Iterable[Part]) -> list[tuple[Rows, list[int]]]:
    """Neighbours of one table are read together: rows that are parts by themselves, say."""
    runs: list[tuple[Rows, list[int]]] = []
    for table, indices in parts:
        if runs and runs[-1][0] is table:
            runs[-1][1].extend(indices)
        else:
            runs.append((table, list(indices)))
    return runs


@dataclass(frozen=True, eq=False)
class _Text:
    """Rows of one table that have a target."""

    asked: int
    """How many there are, those without a target counted too."""
    kept: torch.Tensor
    """Which of these they are."""
    lengths: list[int]
    reads: list[int]
    """How many tokens of each predict something."""
    inside: torch.Tensor
    """The places of these in their rows."""
    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    classifies: bool

    @classmethod
    def of(cls, part: Part, positions: Positions, *, prompted: bool) -> "_Text":
        rows, indices = part
        if not indices:
            none = torch.zeros(0, dtype=torch.int64)
            return cls(0, none, [], [], none, none, none, none, True)
        if positions is counted and isinstance(rows, EncodedRows) and (plain := rows.texts(indices)) is not None:
            return cls._of_texts(*plain)
        return cls._of_batch(rows.batch(indices), positions, prompted=prompted)

    @classmethod
    def _of_texts(cls, ids: Ints, lengths: Ints, labels: Ints) -> "_Text":
        """Of classified texts end to end, each of one token or more, without padding them first."""
        places = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return cls(
            asked=len(lengths),
            kept=torch.arange(len(lengths)),
            lengths=lengths.tolist(),
            reads=[1] * len(lengths),
            inside=torch.zeros(len(lengths), dtype=torch.int64),
            ids=torch.from_numpy(ids),
            positions=torch.from_numpy(places),
            targets=torch.from_numpy(labels),
            classifies=True,
        )

    @classmethod
    def _of_batch(cls, batch: Batch, positions: Positions, *, prompted: bool) -> "_Text":
        ids_BT, labels = batch["input_ids"], batch["labels"]
        read_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
        if classifies := labels.ndim == 1:
            read_BT[:, 0] = labels != IGNORED
            targets = labels[read_BT[:, 0]]
        else:
            read_BT[:, :-1] = labels[:, 1:] != IGNORED
            targets = labels[:, 1:][read_BT[:, :-1]]
        kept_B = read_BT.any(dim=1)
        # A row without tokens is the token that pads it: something has to be read.
        real_BT = batch["attention_mask"].bool()
        real_BT = (real_BT if prompted and classifies else real_BT | read_BT) & kept_B[:, None]
        return cls(
            asked=len(kept_B),
            kept=kept_B.nonzero()[:, 0],
            lengths=real_BT.sum(dim=1)[kept_B].tolist(),
            reads=read_BT.sum(dim=1)[kept_B].tolist(),
            inside=torch.arange(read_BT.shape[1]).expand(read_BT.shape)[read_BT],
            ids=ids_BT[real_BT],
            positions=positions(ids_BT)[real_BT],
            targets=targets,
            classifies=classifies,
        )
