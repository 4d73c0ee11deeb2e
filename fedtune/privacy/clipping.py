"""Clipping: what one example, or one client, can change of a sum is at most the clip.

Shape suffixes: N = examples in memory, P = numbers of one tensor.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch

from fedtune.errors import PrivacyError
from fedtune.state import State

Clipping = Literal["flat", "per-layer", "automatic"]
Gradients = dict[str, torch.Tensor]
"""By tensor, one gradient an example: (N, *shape) fp32."""

ROOM = 1 - 2.0**-20
"""What is clipped stays this far inside of the bound, more than what its own rounding to fp32 comes to."""
STABILITY = 0.01
"""γ of automatic clipping: small gradients are scaled up to a factor of clip/γ at most (arXiv 2206.07136)."""


def clipped_sum(gradients: Gradients, clip: float, how: Clipping) -> State:
    """The sum over examples of their clipped gradients, by tensor: float64, on the CPU.

    Guarantees: one example more or less moves the sum, taken as one vector of all tensors, by at most `clip`, roundings
    included. An example whose gradient holds NaN or infinity counts as zero, so that it can neither spoil the sum nor
    show itself by doing so. What an example adds depends on that example alone. The
    `gradients` are used up: those that are not finite are zeroed. Raises PrivacyError where `clip` is no positive
    number.
    """
    if not 0 < clip < torch.inf:
        raise PrivacyError(f"clip must be above 0 and finite, got {clip:g}")
    flat_NP = {name: gradient.flatten(1) for name, gradient in gradients.items()}
    norms_N = {name: torch.linalg.vector_norm(exact(flat), dim=1).cpu() for name, flat in flat_NP.items()}
    whole_N = torch.linalg.vector_norm(torch.stack(list(norms_N.values())), dim=0)
    finite_N = whole_N.isfinite()
    if not bool(finite_N.all()):
        for flat in flat_NP.values():
            flat[~finite_N.to(flat.device)] = 0.0  # a factor of zero is not enough: zero times NaN is NaN
    factors_N = _FACTORS[how](norms_N, whole_N, clip * ROOM)
    return {
        name: _weighted_sum(torch.where(finite_N, factors_N[name], 0.0), flat).reshape(gradients[name].shape[1:])
        for name, flat in flat_NP.items()
    }


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in double precision, on their device where it has doubles."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def _weighted_sum(factors_N: torch.Tensor, flat_NP: torch.Tensor) -> torch.Tensor:
    # One tensor at a time: the whole set in double precision would take twice the memory of the gradients.
    doubles_NP = exact(flat_NP)
    return (factors_N.to(doubles_NP.device) @ doubles_NP).cpu()


def clip_state(state: Mapping[str, torch.Tensor], clip: float) -> State:
    """A client's whole update, scaled down to a norm of `clip` where it is longer: fp32.

    Guarantees: the norm over all tensors together is at most `clip`, roundings included; an update that holds NaN or
    infinity becomes zero. Raises PrivacyError where `clip` is no positive number.
    """
    if not 0 < clip < torch.inf:
        raise PrivacyError(f"clip must be above 0 and finite, got {clip:g}")
    if not state:
        return {}
    norms = torch.stack([torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in state.values()])
    norm = float(torch.linalg.vector_norm(norms))
    if not norm < torch.inf:  # NaN too
        return {name: torch.zeros_like(state[name], dtype=torch.float32) for name in sorted(state)}
    factor = 1.0 if norm <= clip * ROOM else clip * ROOM / norm
    return {name: (state[name].double() * factor).float() for name in sorted(state)}


Norms = Mapping[str, torch.Tensor]
Factors = Callable[[Norms, torch.Tensor, float], dict[str, torch.Tensor]]
"""By tensor, what each example's part is multiplied by, (N,) float64: from the norms by tensor, the whole ones, and the
bound."""


def _flat(norms_N: Norms, whole_N: torch.Tensor, bound: float) -> dict[str, torch.Tensor]:
    return dict.fromkeys(norms_N, _shrink(whole_N, bound))


def _per_layer(norms_N: Norms, _: torch.Tensor, bound: float) -> dict[str, torch.Tensor]:
    return {name: _shrink(norm_N, bound / len(norms_N) ** 0.5) for name, norm_N in norms_N.items()}


def _automatic(norms_N: Norms, whole_N: torch.Tensor, bound: float) -> dict[str, torch.Tensor]:
    return dict.fromkeys(norms_N, bound / (whole_N + STABILITY))


def _shrink(norm_N: torch.Tensor, bound: float) -> torch.Tensor:
    return bound / norm_N.clamp(min=bound)


_FACTORS: Mapping[Clipping, Factors] = MappingProxyType(
    {"flat": _flat, "per-layer": _per_layer, "automatic": _automatic}
)
