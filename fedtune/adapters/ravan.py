"""RAVAN (arXiv 2506.05568): ΔW = Σᵢ sᵢ·Bᵢ·Hᵢ·Aᵢ over several heads, the Bᵢ and Aᵢ frozen, random and orthonormal.

The server averages the products sᵢ·Hᵢ, in which ΔW is linear, so that the mean is exact; the means of the Hᵢ and of
the sᵢ, each on its own, would not be. So the state holds the products alone: a scale is a variable of the local steps,
which starts at one, is trained, and is multiplied into its square when the state is read.
"""

from collections.abc import Mapping

import torch
from torch import nn

from fedtune.adapters.check import check_same_tensors
from fedtune.adapters.factors import random_factors
from fedtune.adapters.layers import dimensions
from fedtune.adapters.low_rank import LowRank, exact
from fedtune.adapters.ravan_layer import RavanLayer
from fedtune.adapters.side_layer import check_rank, put_in_place
from fedtune.errors import AdapterError
from fedtune.state import Shapes, State, copy_state, shapes_of

START = "random"
"""The one `adapter.init` that RAVAN has: factors from `adapter.seed`, and H = 0."""


class Ravan(LowRank):
    """RAVAN's layers in the model: `<module>.H` (heads, r, r) travels, `<module>.s` (heads,) is trained beside it.

    A slot is a head: a client of fewer heads trains those, and the others are zero in what it is sent. Guarantees: at
    the start the model computes what the base model computes; after `load` every scale is one.
    """

    def _place(self) -> dict[str, nn.Parameter]:
        section = self._section
        if section.init != START:
            raise AdapterError(
                f'a ravan adapter cannot start from adapter.init = "{section.init}": use "{START}", or set '
                f'adapter.kind = "square".'
            )
        if section.dropout or section.alpha is not None:
            raise AdapterError("adapter.dropout and adapter.alpha are for lora: leave them out of a ravan adapter.")
        self.slots, self.shared_origin = section.heads, "recomputed"
        modules = {name: self.model.get_submodule(name) for name in self._targets}
        for name, module in modules.items():
            check_rank(section.rank, name, dimensions(module))
        self._layers: dict[str, RavanLayer] = {}
        for name, module in modules.items():
            self._layers[name] = RavanLayer(module, section.rank, section.heads)
            shape = dimensions(module)
            drawn = random_factors(shape, section.rank, seed=section.seed, name=name, heads=section.heads)
            self._layers[name].set_factors(drawn)
        self._frozen = put_in_place(self.model, self._layers)
        return {f"{name}.{part}": getattr(x, part) for name, x in self._layers.items() for part in ("H", "s")}

    def shapes(self) -> Shapes:
        """The shapes of what travels: the scales do not."""
        return shapes_of(self._traveling())

    def read(self) -> State:
        """The squares with their scales multiplied in, and the head: fp32, CPU."""
        return copy_state(self._traveling())

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy a state into place and put every scale back to one; raises AdapterError where names or shapes differ."""
        check_same_tensors(shapes_of(state), self.shapes(), what="the adapter state")
        for name, layer in self._layers.items():
            layer.set_scaled(state[f"{name}.H"])
        with torch.no_grad():
            for name, parameter in self._head.items():
                parameter.copy_(state[name])

    def _traveling(self) -> dict[str, torch.Tensor]:
        return {f"{name}.H": layer.scaled() for name, layer in self._layers.items()} | self._head

    def _product(self, name: str, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        layer, h_HRR = self._layers[name], exact(state[f"{name}.H"])
        b_MHR = exact(layer.B).reshape(-1, *h_HRR.shape[:2])
        return exact(layer.A), torch.einsum("mhr,hrq->mhq", b_MHR, h_HRR).flatten(1)

    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Raise AdapterError: RAVAN's start reads no gradients."""
        raise AdapterError(f'adapter.init = "{self._section.init}" of a ravan adapter reads no gradients')
