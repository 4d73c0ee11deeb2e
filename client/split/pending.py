"""An answer of the coordinator's body that may still be on its way."""

from concurrent.futures import Future

import torch

from fedtune.errors import TransportError
from fedtune.split.asks import Coding, Packed


class RemotePending:
    """An answer of the coordinator's body."""

    def __init__(self, future: "Future[Packed]", coding: Coding, number: int, answer_s: float) -> None:
        self._future = future
        self._coding = coding
        self._number = number
        self._answer_s = answer_s

    def result(self) -> torch.Tensor:
        """The tensor, fp32 on the CPU; raises TransportError where it takes longer than `answer_s` or never comes."""
        try:
            packed = self._future.result(self._answer_s)
        except TimeoutError:
            raise TransportError(
                f"the coordinator's body has not answered micro-batch {self._number} in {self._answer_s:g} s; "
                "is it overloaded, or is more in flight than it takes?"
            ) from None
        return self._coding.unpack(packed)
