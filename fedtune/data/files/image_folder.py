"""A folder of images with one subfolder a class."""

from pathlib import Path

import pyarrow as pa

from fedtune.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})


def is_image_folder(folder: Path) -> bool:
    """Whether some subfolder holds an image."""
    return any(_images(sub) for sub in _classes(folder))


def read_image_folder(folder: Path) -> pa.Table:
    """Columns `image` (the path; pixels are read when they are needed) and `label` (the subfolder's name)."""
    images, labels = [], []
    for sub in _classes(folder):
        found = _images(sub)
        if not found:
            raise DataError(f"the class folder {sub} holds no image: add some or remove the folder")
        images += [str(path) for path in found]
        labels += [sub.name] * len(found)
    return pa.table({"image": images, "label": labels})


def _classes(folder: Path) -> list[Path]:
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
