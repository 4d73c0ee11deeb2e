"""The end of an error sentence that names what was probably meant."""

import difflib
from collections.abc import Iterable

MOST_NAMED = 12


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """` - did you mean "x"?` where a known name is close to the given one, otherwise nothing."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.6)
    return f' - did you mean "{by_lower[close[0]]}"?' if close else ""


def listed(names: Iterable[str]) -> str:
    """The names for a sentence: quoted, comma-separated, cut after a dozen."""
    quoted = [f'"{name}"' for name in names]
    more = len(quoted) - MOST_NAMED
    return ", ".join(quoted[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "") or "none"
