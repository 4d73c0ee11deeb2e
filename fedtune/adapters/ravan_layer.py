"""A linear layer with several trainable squares, each between frozen factors of its own and with a trained scale.

Shape suffixes: H = heads, R = rank of a head, Q = H·R, … = any leading dimensions.
"""

import torch
from torch import nn

from fedtune.adapters.layers import parameter_of
from fedtune.adapters.side_layer import SideLayer


class ScaledSquares(nn.Module):
    """z ↦ sᵢ·Hᵢ·zᵢ for each head: what is trained, in a module of its own for whatever takes gradients by row."""

    def __init__(self, heads: int, rank: int, device: torch.device) -> None:
        super().__init__()
        self.H = nn.Parameter(torch.zeros(heads, rank, rank, device=device))
        self.s = nn.Parameter(torch.ones(heads, device=device))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(…, Q) to (…, Q)."""
        z_HR = z.reshape(*z.shape[:-1], *self.H.shape[:2])
        return torch.einsum("hrq,...hq->...hr", self.scaled(), z_HR).flatten(-2)

    def scaled(self) -> torch.Tensor:
        """sᵢ·Hᵢ (H, R, R)."""
        return self.s[:, None, None] * self.H


class RavanLayer(SideLayer):
    """y = W·x + Σᵢ sᵢ·Bᵢ·Hᵢ·Aᵢ·x with the Hᵢ and sᵢ trained (arXiv 2506.05568).

    The Bᵢ stand side by side in B and the Aᵢ one below the other in A: two large products and one small one a head.
    """

    def __init__(self, base_layer: nn.Module, rank: int, heads: int) -> None:
        super().__init__(base_layer, heads * rank)
        self.squares = ScaledSquares(heads, rank, self.B.device)

    def between(self, z: torch.Tensor) -> torch.Tensor:
        """sᵢ·Hᵢ·zᵢ for each head: (…, Q) to (…, Q)."""
        product: torch.Tensor = self.squares(z)
        return product

    @property
    def H(self) -> nn.Parameter:  # noqa: N802 - the paper's letter
        """The trained squares (H, R, R)."""
        return parameter_of(self.squares, "H")

    @property
    def s(self) -> nn.Parameter:
        """Their trained scales (H,)."""
        return parameter_of(self.squares, "s")

    def scaled(self) -> torch.Tensor:
        """sᵢ·Hᵢ (H, R, R)."""
        return self.squares.scaled()

    @torch.no_grad()
    def set_scaled(self, squares_HRR: torch.Tensor) -> None:
        """Take sᵢ·Hᵢ up as Hᵢ; the scales are one again."""
        self.H.copy_(squares_HRR)
        self.s.fill_(1.0)
