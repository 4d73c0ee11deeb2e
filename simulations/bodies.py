"""A trained body with worker processes: what a round starts from goes along with each task, and what was trained of it
comes back beside the reply."""

import json
from collections.abc import Iterator, Sequence
from typing import overload

from safetensors.torch import load, save

from fedtune.errors import MissingBody
from fedtune.split.copies import BodyCopies
from fedtune.split.sides import as_body
from simulations.groups import Answers

_LENGTH = 8
"""Bytes of the number in front of a part."""


class BodiesAlong:
    """The parent's end: puts what `copies` offer in front of each task, and takes in what was made of it."""

    def __init__(self, answers: Answers, copies: BodyCopies) -> None:
        self._answers, self._copies = answers, copies

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        """The replies of (client, task) pairs, in order."""
        run, round_, start = self._copies.offered
        offer = _join(json.dumps([run, round_]).encode(), save(as_body(start)))
        replies = self._answers.answer_all(_Packed(offer, jobs))
        for (client, _), packed in zip(jobs, replies, strict=True):
            body, reply = _split(packed)
            if body:
                self._copies.put(client, load(body))
            yield reply


class BodiesApart:
    """A worker's end: its own `copies` start from what came with the task."""

    def __init__(self, answers: Answers, copies: BodyCopies) -> None:
        self._answers, self._copies = answers, copies
        self._last, self._task = b"", b""

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        """The replies of (client, task) pairs, in order, each behind what its client made of the body."""
        for client, packed in jobs:
            reply = next(iter(self._answers.answer_all([(client, self._unpacked(packed))])))
            yield _join(self._trained(client), reply)

    def _unpacked(self, packed: bytes) -> bytes:
        """The task, behind an offer that is taken on: once for all clients that are handed the very same bytes."""
        if packed is not self._last:
            offer, self._task = _split(packed)
            about, start = _split(offer)
            run, round_ = json.loads(about)
            self._copies.offer(run, round_, load(start))
            self._last = packed
        return self._task

    def _trained(self, client: str) -> bytes:
        """What the client made of the body; nothing where it did not finish."""
        run, round_, _ = self._copies.offered
        try:
            return save(self._copies.take(run, round_, client))
        except MissingBody:
            return b""


class _Packed(Sequence[tuple[str, bytes]]):
    """Jobs whose tasks are put together when they are asked for: few of them are ever held."""

    def __init__(self, offer: bytes, jobs: Sequence[tuple[str, bytes]]) -> None:
        self._offer, self._jobs = offer, jobs

    def __len__(self) -> int:
        return len(self._jobs)

    @overload
    def __getitem__(self, where: int) -> tuple[str, bytes]: ...

    @overload
    def __getitem__(self, where: slice) -> Sequence[tuple[str, bytes]]: ...

    def __getitem__(self, where: int | slice) -> tuple[str, bytes] | Sequence[tuple[str, bytes]]:
        if isinstance(where, slice):
            return _Packed(self._offer, self._jobs[where])
        client, task = self._jobs[where]
        return client, _join(self._offer, task)


def _join(first: bytes, rest: bytes) -> bytes:
    return len(first).to_bytes(_LENGTH, "big") + first + rest


def _split(both: bytes) -> tuple[bytes, bytes]:
    end = _LENGTH + int.from_bytes(both[:_LENGTH], "big")
    return both[_LENGTH:end], both[end:]
