"""A converter that keeps DINOv2's original ONNX file, so that a test can run it beside the converted model."""

import shutil
from pathlib import Path

from fedtune.models.packaged.dinov2 import ONNX


def convert(unpacked: Path, out: Path) -> None:
    """Copy the ONNX file and nothing else."""
    shutil.copy(unpacked / ONNX, out / "original.onnx")
