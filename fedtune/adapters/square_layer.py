"""One layer with a square adapter: y = W₀x + B·R·A·x, only R trained (arXiv 2405.17604, 2411.19557).

Shapes: x (…, n), A (r, n), R (r, r), B (m, r), y (…, m).
"""

import torch
from torch import nn
from torch.nn import functional

from fedtune.adapters.layers import weight_shape


class SquareLayer(nn.Module):
    """A frozen layer and its adapter; computes in the adapter's fp32 and answers in the layer's own dtype."""

    A: torch.Tensor
    B: torch.Tensor

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        rows, columns = weight_shape(base)
        device = base.get_parameter("weight").device
        self.base = base
        self.R = nn.Parameter(torch.zeros(rank, rank, device=device))
        self.register_buffer("A", torch.zeros(rank, columns, device=device), persistent=False)
        self.register_buffer("B", torch.zeros(rows, rank, device=device), persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The frozen layer's weight: some models look at its dtype or device."""
        return self.base.get_parameter("weight")

    @property
    def bias(self) -> torch.Tensor | None:
        """The frozen layer's bias."""
        bias = getattr(self.base, "bias", None)
        return bias if isinstance(bias, torch.Tensor) else None

    def set_factors(self, b: torch.Tensor, a: torch.Tensor) -> None:
        """Put frozen factors in place."""
        self.B.copy_(b)
        self.A.copy_(a)

    def product(self) -> torch.Tensor:
        """B·R·A, (m, n)."""
        return self.B @ self.R.detach() @ self.A

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output with the adapter's share added."""
        y: torch.Tensor = self.base(x)
        z = functional.linear(functional.linear(functional.linear(x.to(self.R.dtype), self.A), self.R), self.B)
        return y + z.to(y.dtype)
