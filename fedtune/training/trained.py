"""Which of an adapter's tensors a client trains; the others stand still for as long as its steps take."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from fedtune.training.base import Assignment


def is_trained(name: str, assignment: Assignment) -> bool:
    """Does the client train the tensor of this name?

    What an adapter steps beside its state, as RAVAN's scales that travel inside the squares, goes with its module.
    """
    if assignment.trained is None or name in assignment.trained:
        return True
    return name not in assignment.state and _module(name) in map(_module, assignment.trained)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


@contextmanager
def only_trained(parameters: Mapping[str, nn.Parameter], assignment: Assignment) -> Iterator[dict[str, nn.Parameter]]:
    """The tensors that the client trains; the others require no gradient inside, and do again after."""
    trained = {name: parameter for name, parameter in parameters.items() if is_trained(name, assignment)}
    frozen = [p for name, p in parameters.items() if name not in trained and p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield trained
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
