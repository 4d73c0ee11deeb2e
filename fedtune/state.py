"""The state of an adapter: named fp32 tensors on the CPU, and the few operations on whole states."""

import hashlib
from collections.abc import Iterable, Mapping

import torch

State = dict[str, torch.Tensor]
"""Trainable tensors by canonical name, e.g. `encoder.layer.0.attention.self.query.R`; contiguous, fp32, CPU."""

Shapes = dict[str, tuple[int, ...]]
"""The shape of each tensor of a state, by the same names."""


def shapes_of(state: Mapping[str, torch.Tensor]) -> Shapes:
    """The shapes of a state, by sorted name."""
    return {name: tuple(state[name].shape) for name in sorted(state)}


def copy_state(state: Mapping[str, torch.Tensor]) -> State:
    """A state of its own: contiguous fp32 on the CPU, sharing no memory with `state`."""
    return {name: state[name].detach().to("cpu", torch.float32, copy=True).contiguous() for name in sorted(state)}


def subtract(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> State:
    """`left - right`, tensor by tensor; both hold the same names."""
    return {name: left[name] - right[name] for name in sorted(left)}


def add(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> State:
    """`left + right`, tensor by tensor; both hold the same names."""
    return {name: left[name] + right[name] for name in sorted(left)}


def parameter_count(tensors: Iterable[torch.Tensor]) -> int:
    """How many numbers the tensors hold together."""
    return sum(t.numel() for t in tensors)


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, as 64 hex digits: equal digests mean equal states."""
    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
