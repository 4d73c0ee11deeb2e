"""What a key may hold, in words, read off its declaration: `a whole number of at least 1`."""

import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types as bounds
from pydantic.fields import FieldInfo

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": "up to 64 letters, digits, dots, dashes and underscores",
    r"^(auto|cpu|mps|cuda(:\d+)?)$": '"auto", "cpu", "mps", "cuda" or "cuda:N"',
}
"""Words for the patterns that fields use."""

NONE = "none"
"""How a recipe writes the absence of a value, for TOML has no null."""

Metadata = Sequence[object]


def allowed(field: FieldInfo) -> str:
    """What `field` may hold, as the end of a sentence that begins “must be”."""
    return _words(field.annotation, field.metadata)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The texts that `field` names one by one; empty where it takes any."""
    return tuple(_choices(field.annotation))


def may_be_none(field: FieldInfo) -> bool:
    """Does `field` take `none`?"""
    return type(None) in get_args(field.annotation)


def takes_any_text(field: FieldInfo) -> bool:
    """Is every text a value of `field`'s type?"""
    return field.annotation is str


def as_toml(value: Any) -> str:
    """A value as a recipe writes it; what TOML has no word for, as Python prints it."""
    write = _TOML.get(type(value))
    return write(value) if write else str(value)


def _words(annotation: Any, metadata: Metadata) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_words(part, metadata) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        texts = [f'"{text}"' for text in get_args(annotation)]
        return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
    if get_origin(annotation) is tuple:
        return f"a list of {_elements(get_args(annotation)[0])}"
    return _SIMPLE[annotation](metadata)


def _elements(annotation: Any) -> str:
    plain = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    return "texts" if plain is str else _words(plain, ())


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [text for part in get_args(annotation) for text in _choices(part)]


def _number(noun: str, metadata: Metadata) -> str:
    limits = {kind: getattr(m, word) for m in metadata for kind, word in _LIMITS.items() if isinstance(m, kind)}
    low = [f"{_LOW[kind]} {limits[kind]:g}" for kind in _LOW if kind in limits]
    high = [f"{_HIGH[kind]} {_plain(limits[kind])}" for kind in _HIGH if kind in limits]
    return " ".join([noun, " and ".join(low + high)]).strip()


def _text(metadata: Metadata) -> str:
    patterns = [pattern for m in metadata if (pattern := getattr(m, "pattern", None))]
    if patterns:
        return PATTERNS[patterns[0]]
    return "a text that is not empty" if any(isinstance(m, bounds.MinLen) for m in metadata) else "a text"


def _plain(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def _quoted(text: str) -> str:
    escaped = "".join(_ESCAPES.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in text)
    return f'"{escaped}"'


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_LIMITS: dict[type, str] = {bounds.Ge: "ge", bounds.Gt: "gt", bounds.Le: "le", bounds.Lt: "lt"}
_LOW = {bounds.Ge: "of at least", bounds.Gt: "above"}
_HIGH = {bounds.Le: "at most", bounds.Lt: "below"}
_SIMPLE: dict[Any, Callable[[Metadata], str]] = {
    int: lambda metadata: _number("a whole number", metadata),
    float: lambda metadata: _number("a number", metadata),
    bool: lambda _: "true or false",
    str: _text,
    type(None): lambda _: f'"{NONE}"',
}
_TOML: dict[type, Callable[[Any], str]] = {
    str: _quoted,
    bool: lambda value: "true" if value else "false",
    float: repr,
    type(None): lambda _: f'"{NONE}"',
    tuple: lambda values: f"[{', '.join(map(as_toml, values))}]",
    list: lambda values: f"[{', '.join(map(as_toml, values))}]",
    dict: lambda _: "a table",
}
