"""The one encoding of JSON values that is hashed: sorted keys, no spaces, ASCII, shortest floats, no NaN."""

import json
from typing import Any


def encode(value: Any) -> bytes:
    """The canonical bytes of a JSON value; raises ValueError for NaN, infinity and what is no JSON."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"it is no JSON value ({error})") from error
    return text.encode("ascii")


def decode(raw: bytes) -> Any:
    """The value in `raw`; raises ValueError for anything that `encode` would not have written, byte for byte."""
    try:
        value = json.loads(raw.decode("ascii"), object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if encode(value) != raw:
        raise ValueError("it is not in canonical form")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("it holds a key twice")
    return values


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}")
