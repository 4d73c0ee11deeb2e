"""A recipe's text: its values, and the place in the file or on the command line that each came from."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

from fedtune.errors import RecipeError
from fedtune.recipe.lines import Path, index_lines

Values = dict[str, Any]

MAX_BYTES = 1 << 20
"""Far more than any recipe; what is larger is another kind of file."""

_WHERE = re.compile(r" \((?:at line (?P<line>\d+), column (?P<column>\d+)|at end of document)\)$")
_HINTS = {
    "Invalid value": 'texts stand in quotes, as in name = "minilm"',
    "Cannot overwrite a value": "a key is written twice",
    "Expected '=' after a key": "each line reads key = value",
    "Unescaped '\\'": "write a backslash twice, or put the text in single quotes",
}
"""What people most often did where `tomllib` begins its message so."""


@dataclass(frozen=True, slots=True)
class Source:
    """Raw values and their places."""

    name: str
    """The file's name, as messages give it."""
    values: Values
    lines: Mapping[Path, int] = field(default_factory=dict)
    overrides: Mapping[Path, str] = field(default_factory=dict)
    """The `--set` argument that gave the value at a path."""

    def wrote(self, path: Path) -> bool:
        """Does the file or the command line say anything at `path`?"""
        return bool(path) and self._written(path) == path

    def place(self, *paths: Path) -> str:
        """Where to look: `bad.toml, line 7`, `bad.toml, lines 3 and 9`, `--set training.lr=x`, or the file alone."""
        found = self._found(paths)
        numbers = sorted({self.lines[path] for path in found if path not in self.overrides})
        arguments = list(dict.fromkeys(f"--set {self.overrides[path]}" for path in found if path in self.overrides))
        word = "line" if len(numbers) == 1 else "lines"
        in_file = [f"{self.name}, {word} {_joined(map(str, numbers))}"] if numbers else []
        return " and ".join(in_file + arguments) or self.name

    def order(self, *paths: Path) -> int:
        """A number by which problems are sorted as they stand in the file; those of no line come last."""
        lines = [self.lines[path] for path in self._found(paths) if path in self.lines]
        return min(lines, default=len(self.lines) + MAX_BYTES)

    def _found(self, paths: tuple[Path, ...]) -> list[Path]:
        """Those of `paths` that are written; where none is, the tables that they are missing in."""
        written = [found for path in paths if (found := self._written(path))]
        return [path for path in written if path in paths] or written

    def _written(self, path: Path) -> Path:
        """The longest part of `path` that is written somewhere; an override hides what the file says below."""
        parts = [path[:length] for length in range(len(path), 0, -1)]
        overridden = next((part for part in parts if part in self.overrides), None)
        return overridden or next((part for part in parts if part in self.lines), ())


def read_source(file: File) -> Source:
    """Read a TOML file; raises RecipeError with one sentence and the line of a mistake in its syntax."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise RecipeError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{file} holds {len(raw):,} bytes and is no recipe; name a TOML file of a few kilobytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{file.name}, line {line}: the text is not UTF-8; save the file as UTF-8") from error
    return parse_source(text, file.name)


def parse_source(text: str, name: str) -> Source:
    """The values and places of a TOML text; raises RecipeError as `read_source` does."""
    try:
        values = tomllib.loads(text)
        return Source(name, values, index_lines(text))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(_syntax(str(error), text, name)) from error
    except RecursionError as error:
        raise RecipeError(f"{name}: brackets are nested too deep for a recipe") from error


def _syntax(message: str, text: str, name: str) -> str:
    where = _WHERE.search(message)
    reason = _WHERE.sub("", message)
    hint = next((hint for start, hint in _HINTS.items() if reason.startswith(start)), "")
    line = int(where["line"]) if where and where["line"] else text.rstrip().count("\n") + 1
    said = reason[:1].lower() + reason[1:] + (f" ({hint})" if hint else "")
    return f"{name}, line {line}: this is not TOML: {said}"


def _joined(words: Iterable[str]) -> str:
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last
