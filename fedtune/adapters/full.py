"""No small tensors: the model's own weights are trained, all of them or those that a split leaves a client."""

import copy
from collections.abc import Callable
from pathlib import Path

from torch import nn

from fedtune.adapters.head import PREFIX
from fedtune.adapters.layers import refuse_second
from fedtune.adapters.replaced import Replaced, write_replaced
from fedtune.adapters.unfactored import Unfactored
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.models.head import is_inside
from fedtune.recipe import AdapterSection
from fedtune.state import copy_state

Chosen = Callable[[str], bool]
"""Is the parameter of this name in the base model trained?"""


class Full(Unfactored):
    """The weights of the base model as the state, by their own names; the task head's start with `head.`.

    The mean of weights is the weighted mean of models (FedAvg, arXiv 1602.05629), exact by itself. A weight that is
    used in two places is one tensor, under its first name. Running statistics of batch norms are no parameters: they
    stay as they were.
    """

    kind = "full"

    def __init__(self, loaded: LoadedModel, section: AdapterSection, task: str, chosen: Chosen | None = None) -> None:
        """`chosen` picks among the parameters outside of the task head; all of them where it is None."""
        refuse_second(loaded.model)
        self.model = loaded.model
        self._loaded = loaded
        self._task = task
        loaded.model.requires_grad_(False)
        named = {
            self._canonical(name): parameter
            for name, parameter in loaded.model.named_parameters()
            if (section.head if is_inside(name, loaded.head) else chosen is None or chosen(name))
        }
        self._parameters = {name: named[name] for name in sorted(named)}
        if packed := [name for name, parameter in self._parameters.items() if not parameter.is_floating_point()]:
            raise AdapterError(
                f"{packed[0]!r} is held in 4 bits and cannot be trained; set model.quantization = 'none'"
            )
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)

    def _canonical(self, name: str) -> str:
        return f"{PREFIX}{name}" if is_inside(name, self._loaded.head) else name

    def save(self, folder: Path, base: str) -> None:
        """Write the trained weights as tensors that take the place of the base model's (`fedtune.adapters.replaced`).

        Raises AdapterError where a number is NaN or infinite, or `folder` holds other files; RunError where it cannot
        be written.
        """
        write_replaced(self.replaced(base), folder)

    def replaced(self, base: str) -> Replaced:
        """What `save` writes: the head whether it was trained or not, for a new one is random."""
        names = {self._canonical(name): name for name, _ in self.model.named_parameters()}
        head = {name: p for name, p in self.model.named_parameters() if is_inside(name, self._loaded.head)}
        trained = {names[name]: parameter for name, parameter in self._parameters.items()}
        return Replaced(base=base, task=self._task, tensors=copy_state(head | trained))

    def merged(self) -> nn.Module:
        """A copy of the model as it is now; frozen, in eval mode."""
        plain = copy.deepcopy(self.model)
        for parameter in plain.parameters():
            parameter.grad = None
        return plain.requires_grad_(False).eval()
