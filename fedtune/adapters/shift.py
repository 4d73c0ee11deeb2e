"""What rounds have added to the base weights: the part of a scheme's result that its adapter has no room for.

FedEx-LoRA (arXiv 2410.09432) puts the residual of the mean there, FLoRA (arXiv 2409.05976) the whole stacked product.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from fedtune.state import State, digest


@dataclass(frozen=True, slots=True)
class Shift:
    """A change ΔW of base weights by module, as factors `<module>.U` (out, q) and `<module>.V` (q, in), or dense.

    `<module>.D` (out, in) is the dense form; ΔW = U·V or D, in fp32. Whoever starts from nothing and takes every
    increment holds the same tensors, bit for bit, as who is sent the sum.
    """

    tensors: State = field(default_factory=dict)
    key: str = ""
    """Names the increments that led here: equal keys mean the same shift on all machines. Empty: none."""
    last: State = field(default_factory=dict)
    """The last increment; empty where it is not known."""
    last_from: str = ""
    """The key of the shift that `last` was added to."""

    def then(self, increment: Mapping[str, torch.Tensor]) -> "Shift":
        """This shift and one more; an empty increment changes nothing. Factors become dense where that is smaller."""
        if not increment:
            return self
        tensors: State = {}
        for module in sorted({*modules_of(self.tensors), *modules_of(increment)}):
            tensors |= _together(module, self.tensors, increment)
        key = hashlib.sha256(f"{self.key}{digest(increment)}".encode()).hexdigest()
        return Shift(tensors, key, dict(increment), self.key)

    def dense(self) -> State:
        """ΔW (out, in) in double precision, by module."""
        return {module: dense_of(self.tensors, module) for module in modules_of(self.tensors)}

    def __bool__(self) -> bool:
        return bool(self.key)


NO_SHIFT = Shift()


def modules_of(tensors: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """The modules that a shift's tensors change, sorted."""
    return tuple(sorted({name.rpartition(".")[0] for name in tensors}))


def dense_of(tensors: Mapping[str, torch.Tensor], module: str) -> torch.Tensor:
    """ΔW (out, in) of one module, in double precision."""
    if (dense := tensors.get(f"{module}.D")) is not None:
        return dense.double()
    return tensors[f"{module}.U"].double() @ tensors[f"{module}.V"].double()


def _together(module: str, left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> State:
    parts = [tensors for tensors in (left, right) if module in modules_of(tensors)]
    if all(f"{module}.U" in tensors for tensors in parts):
        u = torch.cat([tensors[f"{module}.U"] for tensors in parts], dim=1)
        v = torch.cat([tensors[f"{module}.V"] for tensors in parts], dim=0)
        if u.numel() + v.numel() <= u.shape[0] * v.shape[1]:
            return {f"{module}.U": u, f"{module}.V": v}
    dense = dense_of(parts[0], module).float()
    for tensors in parts[1:]:
        dense = (dense.double() + dense_of(tensors, module)).float()
    return {f"{module}.D": dense}
