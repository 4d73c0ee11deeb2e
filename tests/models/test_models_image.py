"""The image transform against PIL's own resizing and plain arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fedtune.errors import DataError
from fedtune.models import ImageTransform

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth noise, so that resizing has something to average."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(96, 64), (32, 32), (17, 50)])
def test_resizes_as_pil_does(size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR), dtype=np.float32).transpose(2, 0, 1) / 255
    got = ImageTransform(28, **PLAIN)(image).numpy()
    assert np.abs(got - expected).max() < 1.5 / 255  # PIL rounds to whole levels


def test_normalises_with_imagenets_mean_and_spread() -> None:
    out = ImageTransform(4)(Image.new("RGB", (4, 4), (255, 0, 51)))
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert out.mean(dim=(1, 2)).tolist() == pytest.approx(expected, rel=1e-5)


def test_every_form_of_one_picture_gives_the_same_tensor() -> None:
    image = picture(20, 30)
    array = np.asarray(image)
    transform = ImageTransform(16)
    forms = [
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array.copy()),
        torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255,
        array.tolist(),
        np.concatenate([array, np.full((20, 30, 1), 255, np.uint8)], axis=2),
    ]
    for form in forms:
        torch.testing.assert_close(transform(form), transform(image))


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (1, 28, 28)])
def test_grey_becomes_three_equal_channels(shape: tuple[int, ...]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    out = ImageTransform(28, **PLAIN)(grey)
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])
    assert out[0].numpy() == pytest.approx(grey.reshape(28, 28) / 255)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I", "LA"])
def test_takes_every_mode_of_pil(mode: str) -> None:
    out = ImageTransform(8)(
        picture(16, 16).convert("L").convert(mode) if mode == "I" else picture(16, 16).convert(mode)
    )
    assert out.shape == (3, 8, 8)
    assert out.isfinite().all()


@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(14, 40))
def test_any_size_becomes_the_square_and_stays_in_range(height: int, width: int, size: int) -> None:
    array = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = ImageTransform(size, **PLAIN)(array)
    assert out.shape == (3, size, size)
    assert out.dtype == torch.float32
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1


@pytest.mark.parametrize("wrong", [np.zeros((2, 3, 4, 3)), np.zeros((0, 5, 3)), np.zeros(7), np.zeros((5, 5, 2))])
def test_another_shape_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match="must have the shape"):
        ImageTransform(14)(wrong)


@pytest.mark.parametrize("wrong", ["a path.png", None, b"bytes"])
def test_what_is_no_image_is_refused(wrong: object) -> None:
    with pytest.raises(DataError, match="must be a PIL image or an array"):
        ImageTransform(14)(wrong)
