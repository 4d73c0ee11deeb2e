"""One check with one sentence: do two sets of named tensors have the same names and shapes?"""

from fedtune.errors import AdapterError
from fedtune.state import Shapes


def difference(given: Shapes, wanted: Shapes) -> str:
    """What is wrong with `given`, in words; empty where both are the same."""
    missing = sorted(wanted.keys() - given.keys())
    unknown = sorted(given.keys() - wanted.keys())
    if missing or unknown:
        parts = [f"lacks {missing[0]!r}" if missing else "", f"has the unknown {unknown[0]!r}" if unknown else ""]
        more = len(missing) + len(unknown) - sum(map(bool, parts))
        return " and ".join(filter(None, parts)) + (f" (and {more} more)" if more > 0 else "")
    for name, shape in wanted.items():
        if given[name] != shape:
            return f"has {name!r} with shape {given[name]}, not {shape}"
    return ""


def check_same_tensors(given: Shapes, wanted: Shapes, *, what: str) -> None:
    """Raise AdapterError where `given` does not have the names and shapes of `wanted`."""
    if problem := difference(given, wanted):
        raise AdapterError(f"{what} {problem}; it was made for another adapter or model")
