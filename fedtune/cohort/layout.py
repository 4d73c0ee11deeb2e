"""Which rows and tokens of a pass are whose: clients one after the other, each with its rows one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

Spans = tuple[int, ...]
"""How many consecutive tokens of a flattened tensor belong to each client."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of a pass's stream, client-major: a client's rows stand together, and a row's tokens do."""

    rows: tuple[int, ...]
    """Rows of each client."""
    tokens: tuple[int, ...] = ()
    """Tokens of each row in the stream, padding included where the pass pads; empty where the pass does not know them,
    and each row has as many as the next one."""
    selected: tuple[int, ...] | None = None
    """Tokens of each row where a layer works on some of them alone, as a last layer on those that predict; None where
    every layer works on all or on one a row."""

    def spans(self, count: int) -> Spans:
        """Whose are the `count` tokens of a tensor: of the whole stream, of the selection, or one of each row.

        Raises ValueError where they are none of these.
        """
        for tokens in (self.tokens, self.selected):
            if tokens and count == sum(tokens):
                return self._by_client(tokens)
        total = sum(self.rows)
        if count == total or (not self.tokens and total and count % total == 0):
            return tuple(rows * (count // total) for rows in self.rows)
        raise ValueError(f"{count} tokens do not divide into {total} rows of {sum(self.tokens)} tokens")

    def _by_client(self, tokens: Sequence[int]) -> Spans:
        ends = [0, *accumulate(self.rows)]
        return tuple(sum(tokens[start:end]) for start, end in pairwise(ends))
