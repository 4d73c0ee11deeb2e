"""Turns of clients for the mechanism that draws no sample: who is in which row, by each client's own past alone."""

from collections.abc import Callable, Collection, Iterable, Sequence

from fedtune.seeds import derive_seed


class Turns:
    """Each client's turn: at most once in `period` rows, at most `most` times in all.

    A row is one attempt at a round; a round that is repeated after a crash takes another one. A client's first turn is
    spread over the first period by its name; after that it is in as soon as it is connected and its period is over.

    Guarantees: whether a client is in depends on when it itself was in and connected and on nothing of any other
    client, so that one more client displaces nobody; two of its rows are `period` apart or more.
    """

    def __init__(
        self,
        *,
        period: int,
        most: int,
        seed: int,
        taken: Iterable[Collection[str]] = (),
        known_as: Callable[[str], str] = str,
    ) -> None:
        """`taken`: who was in each row so far, the aborted ones included, by what `known_as` makes of a name."""
        self._period = period
        self._most = most
        self._seed = seed
        self._known_as = known_as
        self._last: dict[str, int] = {}
        self._times: dict[str, int] = {}
        self.row = 0
        """The row that comes next."""
        for who in taken:
            self._note(who)

    def take(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the connected `names` whose turn it is; the row is theirs from now on, whatever comes of it."""
        chosen = tuple(name for name in names if self._is_due(name))
        self._note([self._known_as(name) for name in chosen])
        return chosen

    def _note(self, who: Collection[str]) -> None:
        for key in who:
            self._last[key] = self.row
            self._times[key] = self._times.get(key, 0) + 1
        self.row += 1

    def _is_due(self, name: str) -> bool:
        key = self._known_as(name)
        if key not in self._last:
            return self.row >= derive_seed(self._seed, "turn", client=name) % self._period
        return self.row - self._last[key] >= self._period and self._times[key] < self._most
