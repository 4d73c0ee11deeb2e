"""The end of an error sentence that names what was probably meant."""

import difflib
from collections.abc import Iterable

MOST_NAMED = 12
MOST_CHARACTERS = 60
CUTOFF = 0.6


def quoted(name: str) -> str:
    """A name from the data for a sentence: in quotes, on one line, cut where it is long."""
    line = " ".join(name.split())
    return f'"{line[:MOST_CHARACTERS]}…"' if len(line) > MOST_CHARACTERS else f'"{line}"'


def nearest(given: str, known: Iterable[str]) -> str:
    """The known word closest to `given`, whatever its case, or nothing."""
    by_lower = {word.lower(): word for word in known}
    found = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=CUTOFF)
    return by_lower[found[0]] if found else ""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` where a known name is close to the given one, otherwise nothing."""
    name = nearest(given, known)
    return f"; did you mean {quoted(name)}?" if name else ""


def listed(names: Iterable[str]) -> str:
    """The names for a sentence: quoted, comma-separated, cut after a dozen."""
    shown = [quoted(name) for name in names]
    more = len(shown) - MOST_NAMED
    return ", ".join(shown[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "") or "none"
