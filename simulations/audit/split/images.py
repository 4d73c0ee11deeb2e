"""Images read off activations: a decoder that learned on public images, and an input fitted through the public head."""

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool2d, fold, mse_loss, unfold

from fedtune.seeds import generator
from simulations.audit.split.ridge import Ridge
from simulations.audit.split.seen import Observer, Seen

LIFTED = 768
"""Random features beside the activations themselves: the decoder is linear in both."""
STEPS, RATE = 40, 0.05
"""Of the fit through the head, by Adam."""
WINDOW = 7
"""Pixels of the square over which structural similarity is taken."""


class Decoder:
    """A token of a patch becomes the patch's pixels: ridge regression on its vector and random features of it."""

    def __init__(self, seen: Seen, images: torch.Tensor, patch: int) -> None:
        """Learn from public `images` (M, 3, S, S), the rows of `seen`."""
        tokens, self._patch, self._size = _patches_of(seen), patch, images.shape[-1]
        pixels = unfold(images, patch, stride=patch).transpose(1, 2)
        self._pixels, self._tokens = pixels.mean(dim=0), tokens.mean(dim=0)
        self._spread = (tokens - self._tokens).std().clamp(min=1e-12)
        width = tokens.shape[-1]
        self._lift = torch.randn(width, LIFTED, generator=generator(0, "lift")) / math.sqrt(width)
        self._map = Ridge.fit(self._features(tokens).flatten(0, 1), (pixels - self._pixels).flatten(0, 1))

    def __call__(self, seen: Seen) -> torch.Tensor:
        """The images, (M, 3, S, S)."""
        tokens = _patches_of(seen)
        flat = self._map(self._features(tokens).flatten(0, 1)).reshape(*tokens.shape[:2], -1)
        return fold((flat + self._pixels).transpose(1, 2), self._size, self._patch, stride=self._patch)

    def _features(self, tokens: torch.Tensor) -> torch.Tensor:
        centred = (tokens - self._tokens) / self._spread
        return torch.cat((centred, torch.relu(centred @ self._lift)), dim=2)


def fit_through(observer: Observer, depth: int, seen: Seen, start: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
    """Images (M, 3, S, S) from `start` on, changed until the public head makes of them what was seen."""
    target = seen.hidden.reshape(len(start), -1, seen.hidden.shape[-1])
    head = observer.parts(depth).head
    images = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = mse_loss(head({"pixel_values": images}).hidden, target)
        (images.grad,) = torch.autograd.grad(loss, images)
        optimizer.step()
    return images.detach()


@dataclass(frozen=True, slots=True)
class Likeness:
    """How like the originals images are, each (M,)."""

    share: torch.Tensor
    """Of an image's squared distance from the mean public image, what is recovered: 1 is all, 0 no more than that
    mean, less is worse than it."""
    psnr: torch.Tensor
    """Decibels, of pixels in 0…1."""
    ssim: torch.Tensor
    """Structural similarity over squares of 7 pixels: 1 is the same image."""


def likeness(images: torch.Tensor, originals: torch.Tensor, mean: torch.Tensor) -> Likeness:
    """Of (M, C, S, S) with pixels in 0…1; `mean` (C, S, S) is what a guess without activations would be."""
    error = (images - originals).square().flatten(1).mean(dim=1)
    distance = (mean - originals).square().flatten(1).mean(dim=1)
    share = 1 - error / distance.clamp(min=1e-12)
    return Likeness(share, -10 * error.clamp(min=1e-12).log10(), _ssim(images, originals))


def _ssim(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    def mean(images: torch.Tensor) -> torch.Tensor:
        return avg_pool2d(images, min(WINDOW, images.shape[-1]), stride=1)

    first, second = mean(one), mean(other)
    variances = mean(one * one) - first**2, mean(other * other) - second**2
    shared = mean(one * other) - first * second
    top = (2 * first * second + 0.01**2) * (2 * shared + 0.03**2)
    bottom = (first**2 + second**2 + 0.01**2) * (variances[0] + variances[1] + 0.03**2)
    return (top / bottom).flatten(1).mean(dim=1)


def _patches_of(seen: Seen) -> torch.Tensor:
    """(M, patches, D): the class token is left out."""
    rows = int(seen.row.max()) + 1
    return seen.hidden.reshape(rows, -1, seen.hidden.shape[-1])[:, 1:]
