"""Where the keys of a TOML text stand: `tomllib` reads values and forgets lines, error messages need them."""

import re
import tomllib

Path = tuple[str | int, ...]
"""The way to a value: keys of tables and positions in arrays, e.g. `("adapter", "targets", 0)`."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"[ \t]*")
_VOID = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
"""What may stand between the parts of an array: spaces, newlines, comments."""
_SCALAR = re.compile(r"[^,\]}#\n]*")
_STRING = re.compile(
    r'"""(?:[^\\"]|\\.|"(?!"")|""(?!"))*"{3,5}'  # up to two quotes may stand before the closing three
    r"|'''(?:[^']|'(?!'')|''(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


def index_lines(text: str) -> dict[Path, int]:
    """The line, from 1, on which each key, table and array element of `text` first stands.

    `text` must be TOML that `tomllib` reads; what it makes of anything else is not defined.
    """
    return _Scanner(text).read()


class _Scanner:
    """One pass over a TOML text; `_at` is the position of the next character."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._counted = (0, 1)
        self._lines: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}
        """How many tables each array of tables (`[[…]]`) has so far."""

    def read(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_VOID)
        while self._at < len(self._text):
            if self._next() == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_VOID)
        return self._lines

    def _header(self) -> Path:
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        path = self._key((), into_arrays=True)
        if brackets == 2:
            position = self._arrays.get(path, 0)
            self._arrays[path] = position + 1
            path = (*path, position)
            self._note(path)
        self._at += brackets
        return path

    def _pair(self, table: Path) -> None:
        path = self._key(table)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _key(self, table: Path, *, into_arrays: bool = False) -> Path:
        """Read a dotted key below `table`; a header's parts lead into the last table of an array of tables."""
        path = table
        while True:
            self._skip(_SPACE)
            path = (*path, self._name())
            self._note(path)
            self._skip(_SPACE)
            if self._next() != ".":
                return path
            if into_arrays and path in self._arrays:
                path = (*path, self._arrays[path] - 1)
            self._at += 1

    def _name(self) -> str:
        if self._next() in "\"'":
            return str(tomllib.loads(f"v = {self._take(_STRING)}")["v"])
        return self._take(_BARE)

    def _value(self, path: Path) -> None:
        start = self._next()
        if start == "[":
            self._array(path)
        elif start == "{":
            self._inline_table(path)
        else:
            self._take(_STRING if start in "\"'" else _SCALAR)

    def _array(self, path: Path) -> None:
        self._at += 1
        position = 0
        while self._peek_past_void() != "]":
            self._note((*path, position))
            self._value((*path, position))
            position += 1
            if self._peek_past_void() == ",":
                self._at += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._peek_past_void() != "}":
            self._pair(path)
            if self._peek_past_void() == ",":
                self._at += 1
        self._at += 1

    def _note(self, path: Path) -> None:
        counted, line = self._counted
        line += self._text.count("\n", counted, self._at)
        self._counted = (self._at, line)
        self._lines.setdefault(path, line)

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _peek_past_void(self) -> str:
        self._skip(_VOID)
        return self._next()

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"no TOML at character {self._at}")
        self._at = found.end()
        return found.group()
