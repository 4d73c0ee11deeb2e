"""Matrices of an update as two thin factors (arXiv 1905.13727, with the exact decomposition)."""

from typing import ClassVar

import torch

from fedtune.adapters.factors import leading_factors
from fedtune.compression.base import Form, Forms, Stage, Tensors

LEFT, RIGHT = ":left", ":right"


class LowRankFactors(Stage):
    """Each matrix (m, n) with rank·(m + n) < m·n as U√S (m, rank) and √S·V (rank, n); all else as it is.

    The best approximation of that rank (Eckart and Young), from the singular value decomposition in double precision,
    signs fixed. The factors are of like size, so that what quantises them treats both alike. Cost: a decomposition of
    each matrix, up to 0.1 s where the smaller side is 512; `encode` raises AdapterError for NaN or infinity.
    """

    name: ClassVar[str] = "low-rank"
    linear: ClassVar[bool] = False
    lossless: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False

    def forms(self, given: Forms) -> dict[str, Form]:
        """The factors of the matrices that shrink, and the rest unchanged."""
        made: dict[str, Form] = {}
        for name, form in given.items():
            if self._shrinks(form):
                made[name + LEFT] = Form((form.shape[0], self.section.rank), torch.float32)
                made[name + RIGHT] = Form((self.section.rank, form.shape[1]), torch.float32)
            else:
                made[name] = form
        return made

    def encode(self, tensors: Tensors, *, seed: int) -> dict[str, torch.Tensor]:
        """Decompose; nothing is random."""
        made: dict[str, torch.Tensor] = {}
        for name, tensor in tensors.items():
            if self._shrinks(tensor):
                factors = leading_factors(tensor, self.section.rank, name=name)
                root = factors.s.clamp(min=0).sqrt()
                made[name + LEFT], made[name + RIGHT] = factors.b * root, root[:, None] * factors.a
            else:
                made[name] = tensor
        return made

    def decode(self, tensors: Tensors, given: Forms, *, seed: int) -> dict[str, torch.Tensor]:
        """Multiply, in double precision."""
        return {
            name: (tensors[name + LEFT].double() @ tensors[name + RIGHT].double()).float()
            if self._shrinks(form)
            else tensors[name]
            for name, form in given.items()
        }

    def _shrinks(self, thing: Form | torch.Tensor) -> bool:
        if thing.dtype != torch.float32 or len(thing.shape) != 2:
            return False
        rows, columns = thing.shape
        return self.section.rank * (rows + columns) < rows * columns
