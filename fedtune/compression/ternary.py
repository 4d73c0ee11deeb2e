"""ComPEFT (arXiv 2311.13171): the largest numbers of an update as their signs and one magnitude."""

from typing import ClassVar

import torch

from fedtune.compression.base import Form, Tensors
from fedtune.compression.hostile import check_scales, check_symbols
from fedtune.compression.kept import budgets, cuts, kept, magnitudes
from fedtune.compression.vector import Layout, VectorStage
from fedtune.errors import MalformedMessage


class Ternary(VectorStage):
    """x ↦ s·sign(x) on the largest share of |x|, 0 elsewhere: symbols -1, 0, 1 as int8, and the scale s as fp32.

    Keeps ⌊density·d⌋ numbers (at least one) of the whole update, or of each tensor where `threshold = "tensor"`; of
    equal magnitudes the first. `scale`: the mean of the kept |x|, which is the s of least squared error (STC, arXiv
    1903.02891), one a piece that is cut; or α·σ, one for all, with σ the standard deviation of the whole update before
    the cut, divided by d (ComPEFT).

    A symbol is eight bits until a coder follows: `bitmask` takes two, `rice` and `entropy` come near the entropy,
    0.336 bits at a density of 5 % (0.569 at 10 %, 0.922 at 20 %), which is 95 times less than fp32. `fp16` after it
    saves two bytes and takes every scale below 3e-8 to zero: leave it out.
    """

    name: ClassVar[str] = "ternary"
    linear: ClassVar[bool] = False
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False

    def _forms(self, layout: Layout) -> dict[str, Form]:
        scales = 1 if self.section.scale == "sigma" else len(cuts(layout, self.section))
        return {"symbols": Form((layout.size,), torch.int8), "scale": Form((scales,), torch.float32)}

    def _encode(self, vector: torch.Tensor, layout: Layout, draw: torch.Generator) -> dict[str, torch.Tensor]:
        mask = kept(magnitudes(vector), layout, self.section)
        symbols = vector.sign().to(torch.int8).mul_(mask)
        if self.section.scale == "sigma":
            scale = (self.section.alpha * _deviation(vector)).reshape(1)
        else:
            pieces = zip(*(torch.split(x, cuts(layout, self.section)) for x in (vector, mask, symbols)), strict=True)
            scale = torch.stack([_mean(x[m], int(s.count_nonzero())) for x, m, s in pieces])
        return {"symbols": symbols, "scale": scale.float()}

    def _decode(self, parts: Tensors, layout: Layout, draw: torch.Generator) -> torch.Tensor:
        symbols, scale = parts["symbols"], parts["scale"]
        check_scales(scale, stage=self.name)
        check_symbols(symbols, -1, 1, stage=self.name)
        sizes = cuts(layout, self.section)
        for piece, most in zip(torch.split(symbols, sizes), budgets(layout, self.section), strict=True):
            if int(piece.count_nonzero()) > most:
                raise MalformedMessage(f"the update holds more than the {most} numbers that 'ternary' keeps")
        return symbols * (scale if len(scale) == 1 else scale.repeat_interleave(torch.tensor(sizes)))


def _mean(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """The mean |x| of the kept numbers that are not zero, in double precision; zero where there are none."""
    return numbers.abs().sum(dtype=torch.float64) / max(count, 1)


def _deviation(vector: torch.Tensor) -> torch.Tensor:
    return vector.double().std(correction=0) if len(vector) else torch.zeros((), dtype=torch.float64)
