"""A frozen linear layer with something small and trained between two frozen factors beside it: y = W·x + B·f(A·x).

Shape suffixes: M = out features, N = in features, Q = inner dimension, … = any leading dimensions.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.functional import linear

from fedtune.adapters.factors import Factors
from fedtune.adapters.layers import dimensions, parameter_of
from fedtune.errors import AdapterError


class SideLayer(nn.Module):
    """y = W·x + B·f(A·x), with f in `between`.

    B and A are fp32 whatever the base is; the sum has the base's dtype. B and A are zero until they are set. The
    forward pass has no side effects, so torch.compile takes it whole.
    """

    B: torch.Tensor
    """(M, Q)."""
    A: torch.Tensor
    """(Q, N)."""

    def __init__(self, base_layer: nn.Module, inner: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        out, in_ = dimensions(base_layer)
        device = parameter_of(base_layer, "weight").device
        self.register_buffer("B", torch.zeros(out, inner, device=device), persistent=False)
        self.register_buffer("A", torch.zeros(inner, in_, device=device), persistent=False)

    @abstractmethod
    def between(self, z: torch.Tensor) -> torch.Tensor:
        """What is trained: (…, Q) to (…, Q)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, N) to (…, M)."""
        y: torch.Tensor = self.base_layer(x)
        z = self.between(linear(x.to(self.A.dtype), self.A))
        return y + linear(z, self.B).to(y.dtype)

    def set_factors(self, factors: Factors) -> None:
        """Put B and A in place; what is trained is left as it is."""
        self.B.copy_(factors.b)
        self.A.copy_(factors.a)

    @property
    def weight(self) -> nn.Parameter:
        """The base layer's weight, which some models look at."""
        return parameter_of(self.base_layer, "weight")

    @property
    def bias(self) -> nn.Parameter | None:
        """The base layer's bias."""
        bias = self.base_layer.bias
        return bias if isinstance(bias, nn.Parameter) else None


def put_in_place(model: nn.Module, layers: Mapping[str, SideLayer]) -> dict[str, torch.Tensor]:
    """Put each layer where its base layer is in `model`; returns their frozen factors by name."""
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return {f"{name}.{part}": getattr(layer, part) for name, layer in sorted(layers.items()) for part in ("A", "B")}


def check_rank(rank: int, name: str, shape: tuple[int, int]) -> None:
    """Raise AdapterError where a module's shorter side has no room for `rank` orthonormal directions."""
    if rank > min(shape):
        raise AdapterError(
            f'adapter.rank = {rank} is more than the shorter side of "{name}" ({shape[0]} x {shape[1]}): '
            f"set adapter.rank to {min(shape)} or less, or leave that module out of adapter.targets."
        )
