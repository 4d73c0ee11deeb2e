"""Adapted layers with a leading client dimension: each computes what its single-client layer does, for every client.

A layer's tensors are those that its lane holds under their canonical names. Shape suffixes: K = clients, T = tokens of
all of them, N = in features, M = out features, Q = inner dimension, H = heads, R = rank, … = any leading dimensions.
"""

from abc import abstractmethod

import torch
from torch import nn
from torch.nn.functional import linear

from fedtune.adapters.layers import base_of
from fedtune.adapters.side_layer import SideLayer
from fedtune.cohort.each import each_linear, each_one
from fedtune.cohort.lane import Lane
from fedtune.cohort.layout import Spans
from fedtune.cohort.maps import Path


class CohortModule(nn.Module):
    """A part of the model as a pass of many clients sees it; `alone` is the one whose place it takes."""

    def __init__(self, alone: nn.Module, lane: Lane) -> None:
        super().__init__()
        self.alone = alone
        self._lane = lane

    def path(self) -> Path | None:
        """The matrices of what is added to the base layer, for the pass that is under way; None where it is more."""
        return None


class CohortLayer(CohortModule):
    """A layer that computes something of each token by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, N) to (…, M), the leading dimensions in the order of the lane's layout."""
        flat_TN = x.reshape(-1, x.shape[-1])
        flat_TM = self.flat(flat_TN, self._lane.spans(len(flat_TN)))
        return flat_TM.reshape(*x.shape[:-1], flat_TM.shape[-1])

    @abstractmethod
    def flat(self, x_TN: torch.Tensor, spans: Spans) -> torch.Tensor:
        """(T, N) to (T, M)."""

    @property
    def weight(self) -> torch.Tensor:
        """The base layer's weight, whose dtype and device some models look at."""
        return base_of(self.alone).get_parameter("weight")


class CohortLora(CohortLayer):
    """y = W·x + scale·Bₖ·Aₖ·x; `a` is a name in the lane, or the frozen A that all clients share."""

    def __init__(
        self,
        alone: nn.Module,
        lane: Lane,
        a: str | torch.Tensor,
        b: str,
        scale: float,
        dropout: CohortModule | None = None,
    ) -> None:
        """`dropout` is that of x before Aₖ."""
        super().__init__(alone, lane)
        self._a, self._b, self._scale = a, b, scale
        self._dropout = dropout

    def path(self) -> Path | None:
        """Aₖ, then scale·Bₖ."""
        if self._dropout is not None:
            return None
        a = self._lane.tensors[self._a] if isinstance(self._a, str) else self._a
        return a, self._scale * self._lane.tensors[self._b]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, N) to (…, M), the leading dimensions in the order of the lane's layout."""
        if self._dropout is None:
            return super().forward(x)
        y: torch.Tensor = base_of(self.alone)(x)
        flat_TN = self._dropout(x).reshape(-1, x.shape[-1])
        return y + self._added(flat_TN, self._lane.spans(len(flat_TN))).view(y.shape).to(y.dtype)

    def flat(self, x_TN: torch.Tensor, spans: Spans) -> torch.Tensor:
        """(T, N) to (T, M)."""
        y_TM: torch.Tensor = base_of(self.alone)(x_TN)
        return y_TM + self._added(x_TN, spans).to(y_TM.dtype)

    def _added(self, x_TN: torch.Tensor, spans: Spans) -> torch.Tensor:
        tensors = self._lane.tensors
        if isinstance(self._a, str):
            z_TR = each_linear(x_TN, tensors[self._a], spans)
        else:
            z_TR = linear(x_TN.to(self._a.dtype), self._a)
        return each_linear(z_TR * self._scale, tensors[self._b], spans)


class CohortSquare(CohortLayer):
    """y = W·x + B·Rₖ·A·x."""

    def __init__(self, alone: SideLayer, lane: Lane, square: str) -> None:
        super().__init__(alone, lane)
        self._side, self._square = alone, square

    def path(self) -> Path | None:
        """A, Rₖ, then B."""
        return self._side.A, self._lane.tensors[self._square], self._side.B

    def flat(self, x_TN: torch.Tensor, spans: Spans) -> torch.Tensor:
        """(T, N) to (T, M)."""
        y_TM: torch.Tensor = self._side.base_layer(x_TN)
        z_TQ = self.between(linear(x_TN.to(self._side.A.dtype), self._side.A), spans)
        return y_TM + linear(z_TQ, self._side.B).to(y_TM.dtype)

    def between(self, z_TQ: torch.Tensor, spans: Spans) -> torch.Tensor:
        """What is trained: (T, Q) to (T, Q)."""
        return each_linear(z_TQ, self._lane.tensors[self._square], spans)


class CohortRavan(CohortSquare):
    """y = W·x + Σᵢ sₖᵢ·Bᵢ·Hₖᵢ·Aᵢ·x."""

    def __init__(self, alone: SideLayer, lane: Lane, squares: str, scales: str) -> None:
        super().__init__(alone, lane, squares)
        self._scales = scales

    def path(self) -> None:
        """It adds several."""

    def between(self, z_TQ: torch.Tensor, spans: Spans) -> torch.Tensor:
        """sₖᵢ·Hₖᵢ·zᵢ for each head: (T, Q) to (T, Q)."""
        squares_KHRR = self._lane.tensors[self._square]
        scaled_KHRR = self._lane.tensors[self._scales][:, :, None, None] * squares_KHRR
        z_HTR = z_TQ.view(len(z_TQ), *squares_KHRR.shape[1:3]).unbind(1)
        heads = [each_linear(z_TR, scaled_KHRR[:, head], spans) for head, z_TR in enumerate(z_HTR)]
        return torch.cat(heads, dim=-1)


class CohortLinear(CohortLayer):
    """y = Wₖ·x + bₖ: a task head that is trained whole."""

    def __init__(self, alone: nn.Module, lane: Lane, weights: str, biases: str | None) -> None:
        super().__init__(alone, lane)
        self._weights, self._biases = weights, biases

    def flat(self, x_TN: torch.Tensor, spans: Spans) -> torch.Tensor:
        """(T, N) to (T, M)."""
        y_TM = each_linear(x_TN, self._lane.tensors[self._weights], spans)
        return y_TM if self._biases is None else y_TM + each_one(self._lane.tensors[self._biases], spans).to(y_TM.dtype)
