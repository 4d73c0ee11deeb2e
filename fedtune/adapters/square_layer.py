"""A linear layer with a trainable square matrix between two frozen factors beside it.

Shape suffixes: M = out features, N = in features, R = rank, … = any leading dimensions.
"""

import torch
from torch import nn
from torch.nn.functional import linear

from fedtune.adapters.factors import Factors
from fedtune.adapters.layers import dimensions, parameter_of


class SquareLayer(nn.Module):
    """y = W0·x + B·R·A·x with R trained: LoRA-XS's layer (arXiv 2405.17604) at LoRA-SB's scale of one (2411.19557).

    B, R and A are fp32 whatever the base is; the sum has the base's dtype. B and A are zero until they are set. The
    forward pass has no side effects, so torch.compile takes it whole.
    """

    B: torch.Tensor
    A: torch.Tensor

    def __init__(self, base_layer: nn.Module, rank: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        out, in_ = dimensions(base_layer)
        device = parameter_of(base_layer, "weight").device
        # A plain linear layer, for whatever takes gradients by example knows how to take its; made on `meta` to leave
        # the global random state alone.
        self.square = nn.Linear(rank, rank, bias=False, device="meta", dtype=torch.float32).to_empty(device=device)
        nn.init.zeros_(self.square.weight)
        self.register_buffer("B", torch.zeros(out, rank, device=device), persistent=False)
        self.register_buffer("A", torch.zeros(rank, in_, device=device), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, N) to (…, M)."""
        y: torch.Tensor = self.base_layer(x)
        z = self.square(linear(x.to(self.A.dtype), self.A))
        return y + linear(z, self.B).to(y.dtype)

    def set_factors(self, factors: Factors) -> None:
        """Put B and A in place; R is left as it is."""
        self.B.copy_(factors.b)
        self.A.copy_(factors.a)

    @property
    def R(self) -> nn.Parameter:  # noqa: N802 - the papers' letter
        """The trained matrix (R, R)."""
        return parameter_of(self.square, "weight")

    def product(self) -> torch.Tensor:
        """ΔW = B·R·A (M, N), in double precision on the CPU."""
        b_MR, r_RR, a_RN = (part.detach().cpu().double() for part in (self.B, self.R, self.A))
        return b_MR @ r_RR @ a_RN

    @property
    def weight(self) -> nn.Parameter:
        """The base layer's weight, which some models look at."""
        return parameter_of(self.base_layer, "weight")

    @property
    def bias(self) -> nn.Parameter | None:
        """The base layer's bias."""
        bias = self.base_layer.bias
        return bias if isinstance(bias, nn.Parameter) else None
