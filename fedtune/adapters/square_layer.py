"""A linear layer with a trainable square matrix between two frozen factors beside it.

Shape suffixes: R = rank, … = any leading dimensions.
"""

import torch
from torch import nn

from fedtune.adapters.layers import parameter_of
from fedtune.adapters.side_layer import SideLayer


class SquareLayer(SideLayer):
    """y = W·x + B·R·A·x with R trained: LoRA-XS's layer (arXiv 2405.17604) at LoRA-SB's scale of one (2411.19557)."""

    def __init__(self, base_layer: nn.Module, rank: int) -> None:
        super().__init__(base_layer, rank)
        # A plain linear layer, for whatever takes gradients by example knows how to take its; made on `meta` to leave
        # the global random state alone.
        square = nn.Linear(rank, rank, bias=False, device="meta", dtype=torch.float32)
        self.square = square.to_empty(device=self.B.device)
        nn.init.zeros_(self.square.weight)

    def between(self, z: torch.Tensor) -> torch.Tensor:
        """R·z: (…, R) to (…, R)."""
        product: torch.Tensor = self.square(z)
        return product

    @property
    def R(self) -> nn.Parameter:  # noqa: N802 - the papers' letter
        """The trained matrix (R, R)."""
        return parameter_of(self.square, "weight")
