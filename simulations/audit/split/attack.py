"""The attacks on one kind of rows, at every depth: learn on public rows, read private ones, compare with a guess."""

import math
from collections.abc import Iterator

import torch

from fedtune.data.rows import EncodedRows
from fedtune.models.image import ImageTransform
from simulations.audit.split.images import Decoder, Likeness, fit_through, likeness
from simulations.audit.split.result import Leak
from simulations.audit.split.seen import Observer, Seen
from simulations.audit.split.tokens import Probe, look_up

FITTED_IMAGES = 8
"""Private images that are fitted through the head: each takes as long as hundreds that are decoded."""


def read_texts(observer: Observer, public: EncodedRows, private: EncodedRows) -> Iterator[Leak]:
    """Depth by depth; special tokens, which are the same in every row, are not counted."""
    known, truth = _ids(public), _ids(private)
    special = torch.tensor(sorted(set(observer.loaded.processor.all_special_ids)))
    counted, learned = ~torch.isin(truth, special), ~torch.isin(known, special)
    guess = torch.full_like(truth, int(known[learned].mode().values))
    learn, read = observer.see(public), observer.see(private)
    for depth, (shown, seen) in enumerate(zip(learn, read, strict=True)):
        guesses = {"probe": Probe(observer, shown, known).guess(seen)}
        if depth == 0:
            guesses["look-up"] = look_up(observer, seen)
        for name, found in guesses.items():
            yield text_leak(depth, name, found, truth, guess, seen, counted)


def text_leak(
    depth: int,
    attack: str,
    found: torch.Tensor,
    truth: torch.Tensor,
    guess: torch.Tensor,
    seen: Seen,
    counted: torch.Tensor,
) -> Leak:
    """The share of counted tokens that are right, with the standard error of its mean over rows."""
    hits = (found == truth)[counted].float()
    return Leak(
        head_layers=depth,
        attack=attack,
        recovered=float(hits.mean()),
        error=_row_error(hits, seen.row[counted]),
        guess=float((guess == truth)[counted].float().mean()),
    )


def read_images(
    observer: Observer, public: EncodedRows, private: EncodedRows, *, fitted: frozenset[int]
) -> Iterator[Leak]:
    """Depth by depth; at the depths of `fitted` some images are fitted through the head too."""
    known, truth = _pixels(public), _pixels(private)
    patch = int(observer.loaded.model.config.patch_size)  # type: ignore[union-attr, arg-type]
    units = _Units(observer.loaded.processor)
    originals, mean = units(truth), units(known.mean(dim=0, keepdim=True))[0]
    learn, read = observer.see(public), observer.see(private)
    for depth, (shown, seen) in enumerate(zip(learn, read, strict=True)):
        decoded = Decoder(shown, known, patch)(seen)
        yield image_leak(depth, "decoder", likeness(units(decoded), originals, mean))
        if depth in fitted:
            first = seen.of_rows(0, FITTED_IMAGES)
            images = fit_through(observer, depth, first, decoded[:FITTED_IMAGES])
            found = likeness(units(images), originals[:FITTED_IMAGES], mean)
            yield image_leak(depth, f"fit ({len(images)} images)", found)


def image_leak(depth: int, attack: str, found: Likeness) -> Leak:
    """The mean over images; the guess is the mean public image, which recovers 0 of the variance by definition."""
    return Leak(
        head_layers=depth,
        attack=attack,
        recovered=float(found.share.mean()),
        error=float(found.share.std() / math.sqrt(len(found.share))) if len(found.share) > 1 else math.inf,
        guess=0.0,
        psnr=float(found.psnr.mean()),
        ssim=float(found.ssim.mean()),
    )


class _Units:
    """Normalised images as pixels in 0…1."""

    def __init__(self, transform: ImageTransform) -> None:
        self._mean, self._std = (torch.tensor(v).reshape(3, 1, 1) for v in (transform.mean, transform.std))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return (images * self._std + self._mean).clamp(0, 1)


def _row_error(hits: torch.Tensor, row: torch.Tensor) -> float:
    """Of the mean of all tokens: tokens of one row are not independent, so rows are what counts."""
    rows = torch.zeros(int(row.max()) + 1).index_add_(0, row, hits - hits.mean())
    return float(rows.square().sum().sqrt() / len(hits))


def _ids(rows: EncodedRows) -> torch.Tensor:
    """The ids of all tokens, row after row, paddings left out."""
    batches = (rows.batch([index]) for index in range(len(rows)))
    return torch.cat([batch["input_ids"][batch["attention_mask"].bool()] for batch in batches])


def _pixels(rows: EncodedRows) -> torch.Tensor:
    return rows.batch(range(len(rows)))["pixel_values"]
