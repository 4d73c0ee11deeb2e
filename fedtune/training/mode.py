"""Training or evaluation mode for a while: what the model was in before, it is in again after."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put `model` into training or evaluation mode, module by module put back at the end.

    Batch norms stay in evaluation mode: their running statistics belong to the frozen base, and one client's rows
    must not reach the next client through them.
    """
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    for module, _ in before:
        if isinstance(module, _BatchNorm):
            module.eval()
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training
