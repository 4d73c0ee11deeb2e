"""Asymmetric numeral systems (arXiv 1311.2540) by the package constriction, on models of whole numbers.

A model gives each symbol a weight of at least 1, and the weights sum to 2**24. They are found in integers. What
constriction computes of them in floating point starts from whole numbers with a sum below 2**24 and a scale of 1, so
that every step is exact: both ends have the same model on any machine.

Code words are 32 bits wide, little-endian. The last symbol is coded first, so that the first is decoded first. The
coder starts at the state 2**32, to which decoding comes back: from an empty one, runs of some symbols would cost
nothing, and no length could be told from the counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtune.compression.stream import Bytes
from fedtune.errors import MalformedMessage, RecipeError

PRECISION = 24
WHOLE = 1 << PRECISION
WORD = np.dtype("<u4")
_START = np.array([0, 1], np.uint32)
"""The state 2**32 as code words."""
_AT_ONCE = 1 << 16
"""Symbols decoded at once: they come as int32, four times the size of what they become."""
_SLACK_BITS = 128.0
_SLACK_BITS_A_SYMBOL = 0.01
"""By how much a code may miss its model's cost: the coder's state at both ends, and its rounding."""


def load() -> Any:
    """constriction's stream coders; raises RecipeError where the package is not installed."""
    try:
        import constriction
    except ImportError as error:
        raise RecipeError(
            'compression.upload has "entropy", which needs the package constriction: install it, or use "rice"'
        ) from error
    return constriction.stream


@dataclass(frozen=True, slots=True)
class Model:
    """The symbols 0 to len(weights) - 1, two at least; `weights` (symbols,) sum to 2**24."""

    weights: NDArray[np.int64]

    def costs(self) -> NDArray[np.float64]:
        """Bits by symbol. For estimates alone: a logarithm may differ between machines in its last bit."""
        costs: NDArray[np.float64] = PRECISION - np.log2(self.weights)
        return costs

    def coder(self) -> Any:
        """constriction's model: to each number that it is given it adds the 1 that it owes every symbol."""
        return load().model.Categorical((self.weights - 1).astype(np.float64), lazy=False, perfect=False)


def model_of(counts: Sequence[int]) -> Model:
    """The model of symbols that are met this often; `counts` may be whole numbers of any size, not all zero."""
    spare, total = WHOLE - len(counts), sum(counts)
    weight = {count: 1 + spare * count // total for count in set(counts)}
    weights = np.array([weight[count] for count in counts], dtype=np.int64)
    weights[int(np.argmax(weights))] += WHOLE - int(weights.sum())
    return Model(weights)


def encode(pieces: Sequence[tuple[NDArray[np.integer[Any]], Model]]) -> Bytes:
    """The code words of symbols one piece after the other, each piece by its own model."""
    coder = load().stack.AnsCoder(_START)
    for symbols, model in reversed(pieces):
        coder.encode_reverse(symbols.astype(np.int32), model.coder())
    words: Bytes = coder.get_compressed().astype(WORD).view(np.uint8)
    return words


class Decoder:
    """Code words, read from the first symbol on.

    What was changed, or asked for beyond its end, decodes to some symbols or other: `finish` finds most such words, the
    stream's checksum the others.
    """

    def __init__(self, words: Bytes) -> None:
        if len(words) % WORD.itemsize:
            raise MalformedMessage("the stream is cut short in a code word")
        try:
            self._coder = load().stack.AnsCoder(words.view(WORD).astype(np.uint32))
        except ValueError as error:  # a last word of zero
            raise MalformedMessage("the stream's code words are none") from error

    def take(self, count: int, model: Model) -> Bytes:
        """The next `count` symbols, each below 256."""
        coder = model.coder()
        symbols = np.empty(count, np.uint8)
        for start in range(0, count, _AT_ONCE):
            part = symbols[start : start + _AT_ONCE]
            part[:] = self._coder.decode(coder, len(part))
        return symbols

    def finish(self) -> None:
        """Raises MalformedMessage where the coder is not where it started."""
        if not np.array_equal(self._coder.get_compressed(), _START):
            raise MalformedMessage("the stream's code words are not those of its symbols")


def check_length(words: int, symbols: int, least: float, most: float) -> None:
    """Raises MalformedMessage where `words` bytes cannot be the code of `symbols` that cost `least` to `most` bits.

    Whoever claims many symbols in a few bytes is refused before memory is taken for them.
    """
    slack = _SLACK_BITS + _SLACK_BITS_A_SYMBOL * symbols
    if not least - slack <= 8 * words <= most + slack:
        raise MalformedMessage("the stream has not the length of the symbols that it counts")
