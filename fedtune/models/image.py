"""Images become the tensors that a vision model reads; with torch and PIL alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from fedtune.errors import DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Rgb = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """Resizes to a square (bilinear, antialiased) and normalises: PIL image or array in, fp32 (3, size, size) out."""

    size: int
    mean: Rgb = IMAGENET_MEAN
    std: Rgb = IMAGENET_STD

    def __call__(self, image: Any) -> torch.Tensor:
        """One image, fp32 (3, size, size) on the CPU.

        Takes a PIL image, or an array or tensor of (H, W), (H, W, 1), (H, W, 3) or (3, H, W): uint8 in 0…255 or floats
        in 0…1. Grey becomes three equal channels, transparency is dropped. Raises DataError for anything else.
        """
        unit = _channels_first(_array(image))
        resized = interpolate(unit[None], size=(self.size, self.size), mode="bilinear", antialias=True)[0]
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (self.mean, self.std))
        return (resized.clamp(0, 1) - mean) / std


def transform_for(folder: Path, size: int) -> ImageTransform:
    """The transform with the mean and spread of the folder's `preprocessor_config.json`; ImageNet's without one."""
    try:
        fields = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        return ImageTransform(size, _rgb(fields["image_mean"]), _rgb(fields["image_std"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ImageTransform(size)


def _rgb(values: list[float]) -> Rgb:
    red, green, blue = map(float, values)
    return red, green, blue


def _array(image: Any) -> np.ndarray[Any, np.dtype[Any]]:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if isinstance(image, torch.Tensor):
        return image.detach().cpu().numpy()
    array = np.asarray(image)
    if array.dtype.kind not in "uif":
        raise DataError(f"An image must be a PIL image or an array of numbers, not {type(image).__name__}.")
    return array


def _channels_first(array: np.ndarray[Any, np.dtype[Any]]) -> torch.Tensor:
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise DataError(f"An image must have the shape (H, W), (H, W, 3) or (3, H, W), not {tuple(array.shape)}.")
    scale = 1.0 if array.dtype.kind == "f" else 255.0
    tensor = torch.from_numpy(np.ascontiguousarray(array[:, :, :3], dtype=np.float32)).permute(2, 0, 1) / scale
    return tensor.expand(3, -1, -1) if tensor.shape[0] == 1 else tensor
