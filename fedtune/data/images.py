"""An image column, whatever it holds, becomes one that PIL can open, and every image in it is checked."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from PIL import Image, UnidentifiedImageError

from fedtune.errors import DataError

READ_ERRORS = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What PIL raises on files that are damaged, no images, or far too large."""


def with_images(table: datasets.Dataset, source: str) -> datasets.Dataset:
    """`image` as undecoded `datasets.Image`: from bytes, paths (relative to the data file) or images.

    Raises DataError where the column holds something else.
    """
    feature = table.features["image"]
    if isinstance(feature, datasets.Image):
        return table.cast_column("image", datasets.Image(decode=False))
    kind = getattr(feature, "dtype", None)
    if kind in {"string", "large_string"}:
        base = Path(source).expanduser()
        paths = [str(base.parent / path) if path else None for path in table["image"]]
        table = table.remove_columns("image").add_column("image", paths)
    elif kind not in {"binary", "large_binary"} and not _is_struct(feature):
        raise DataError("the image column holds neither images nor paths of images: set data.image to another column")
    return table.cast_column("image", datasets.Image(decode=False))


def open_image(cell: Mapping[str, Any], row: int) -> Image.Image:
    """The decoded image of one cell {bytes, path}; DataError where it cannot be read."""
    try:
        with Image.open(_file(cell)) as image:
            image.load()
            return image
    except READ_ERRORS as error:
        raise _unreadable(cell, row) from error


def check_images(cells: list[Mapping[str, Any] | None]) -> None:
    """Open every image without decoding its pixels, so that a damaged one is found before the run."""
    for row, cell in enumerate(cells):
        if cell is not None:
            try:
                with Image.open(_file(cell)) as image:
                    image.verify()
            except READ_ERRORS as error:
                raise _unreadable(cell, row) from error


def _file(cell: Mapping[str, Any]) -> Any:
    return io.BytesIO(cell["bytes"]) if cell.get("bytes") is not None else cell["path"]


def _unreadable(cell: Mapping[str, Any], row: int) -> DataError:
    path = cell.get("path")
    missing = path and cell.get("bytes") is None and not Path(path).exists()
    what = f"the image {path}" if path else f"the image of row {row + 1}"
    return DataError(f"{what} {'is not there' if missing else 'cannot be read'}: replace it or leave its row out")


def _is_struct(feature: Any) -> bool:
    return isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()
