"""The two sides of a split run's state: what clients train and send, and what the coordinator trains of the body."""

from collections.abc import Mapping
from typing import TypeVar

ValueT = TypeVar("ValueT")
PREFIX = "body."
"""In front of the names of the body's tensors, which never travel."""


def travels(name: str) -> bool:
    """Is the tensor of this name in a run's state one that clients send and are sent?"""
    return not name.startswith(PREFIX)


def client_side(state: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """The client's share of a state, or of whatever goes by its names."""
    return {name: value for name, value in state.items() if travels(name)}


def body_side(state: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """The body's share, by its names in the body."""
    return {name.removeprefix(PREFIX): value for name, value in state.items() if not travels(name)}


def as_body(state: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """The body's tensors by their names in the run's state."""
    return {f"{PREFIX}{name}": value for name, value in state.items()}
