"""Canary examples: real rows with wrong labels among a client's own, each in or out by its coin."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedtune.data.base import Batch, Rows
from fedtune.errors import PrivacyError
from fedtune.training.forward import IGNORED


class CanaryRows:
    """A client's rows, some of which have become canaries; those that were left out are not there.

    A canary is one of the client's rows with another class, or with answer tokens that are drawn at random: nothing but
    having been trained on it makes a model expect that.

    Args:
        rows: the client's own.
        canaries: which of them are canaries, and whether each is in.
        choices: classes of the task, or tokens of the vocabulary.
        seed: of the wrong labels, which are no secret.
    """

    def __init__(self, rows: Rows, canaries: Mapping[int, bool], *, choices: int, seed: int) -> None:
        if choices < 2:
            raise PrivacyError("a wrong label needs two classes or more")
        if odd := [position for position in canaries if not 0 <= position < len(rows)]:
            raise PrivacyError(f"there is no row {odd[0]} to become a canary")
        self._rows = rows
        self._canaries = dict(canaries)
        self._choices = choices
        self._seed = seed
        self._there = [position for position in range(len(rows)) if canaries.get(position, True)]

    def __len__(self) -> int:
        return len(self._there)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The rows at `indices` of those that are there, as the underlying rows give them."""
        return self._labelled([self._there[index] for index in indices])

    def canary(self, position: int) -> Batch:
        """One canary by its position in the underlying rows, in or out; raises PrivacyError where it is none."""
        if position not in self._canaries:
            raise PrivacyError(f"row {position} is no canary")
        return self._labelled([position])

    def _labelled(self, positions: Sequence[int]) -> Batch:
        batch = self._rows.batch(positions)
        changed = [(place, position) for place, position in enumerate(positions) if position in self._canaries]
        if not changed:
            return batch
        batch = {name: tensor.clone() if name in ("labels", "input_ids") else tensor for name, tensor in batch.items()}
        for place, position in changed:
            self._mislabel(batch, place, np.random.default_rng((self._seed, position)))
        return batch

    def _mislabel(self, batch: Batch, place: int, draw: np.random.Generator) -> None:
        labels = batch["labels"]
        if labels.ndim == 1:
            labels[place] = (labels[place] + int(draw.integers(1, self._choices))) % self._choices
            return
        answer = labels[place] != IGNORED
        tokens = labels.new_tensor(draw.integers(0, self._choices, size=int(answer.sum())))
        labels[place][answer] = tokens
        batch["input_ids"][place][answer] = tokens


def choose_rows(sizes: Mapping[str, int], names: Sequence[str], *, seed: int) -> dict[str, tuple[str, int]]:
    """A row for each canary: (client, position), no row twice, clients in turn and each at most half of its rows.

    Raises PrivacyError where the clients hold too few rows for so many.
    """
    room = {client: size // 2 for client, size in sizes.items()}
    if sum(room.values()) < len(names):
        raise PrivacyError(
            f"{len(names)} canaries are too many: half of the clients' rows are {sum(room.values())}; ask for fewer"
        )
    orders = {
        client: np.random.default_rng((seed, number)).permutation(size)[: room[client]].tolist()
        for number, (client, size) in enumerate(sizes.items())
    }
    depth = max(len(order) for order in orders.values())
    turns = [(client, orders[client][turn]) for turn in range(depth) for client in sizes if turn < len(orders[client])]
    return dict(zip(names, turns, strict=False))
