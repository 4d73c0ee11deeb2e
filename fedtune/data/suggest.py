"""The end of an error sentence that names what was probably meant."""

import difflib
from collections.abc import Iterable

MOST_NAMED = 12
MOST_CHARACTERS = 60


def quoted(name: str) -> str:
    """A name from the data for a sentence: in quotes, on one line, cut where it is long."""
    line = " ".join(name.split())
    return f'"{line[:MOST_CHARACTERS]}…"' if len(line) > MOST_CHARACTERS else f'"{line}"'


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """` - did you mean "x"?` where a known name is close to the given one, otherwise nothing."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.6)
    return f" - did you mean {quoted(by_lower[close[0]])}?" if close else ""


def listed(names: Iterable[str]) -> str:
    """The names for a sentence: quoted, comma-separated, cut after a dozen."""
    shown = [quoted(name) for name in names]
    more = len(shown) - MOST_NAMED
    return ", ".join(shown[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "") or "none"
