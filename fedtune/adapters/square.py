"""Square adapters, the family of LoRA-XS, LoRA-SB and Fed-SB (arXiv 2405.17604, 2411.19557, 2502.15436): ΔW = B·R·A.

With B and A frozen and alike on all clients R ↦ B·R·A is linear, so the mean of the R is the mean of the ΔW. With
orthonormal B and A and a scale of one the gradient of R is the best that r² numbers can say of the weight's gradient,
and noise on R is no larger on ΔW.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from fedtune.adapters.base import SharedOrigin
from fedtune.adapters.check import check_same_tensors
from fedtune.adapters.factors import Factors, leading_factors, random_factors
from fedtune.adapters.layers import dimensions, weight_of
from fedtune.adapters.low_rank import LowRank, exact
from fedtune.adapters.side_layer import check_rank, put_in_place
from fedtune.adapters.square_layer import SquareLayer
from fedtune.errors import AdapterError
from fedtune.recipe import AdapterSection
from fedtune.state import State, shapes_of

FIRST_STEP = 1e-6
"""η of LoRA-SB's simulated first step ΔW = −η·sign(G). The published scripts divide the peak rate by the number of
warm-up steps and arrive at about this: R starts next to zero, and what a gradient gives is the subspace."""


def _from_weight(layer: SquareLayer, section: AdapterSection, name: str) -> Factors | None:
    return leading_factors(weight_of(layer.base_layer), section.rank, name=name)


def _from_seed(layer: SquareLayer, section: AdapterSection, name: str) -> Factors | None:
    return random_factors(dimensions(layer), section.rank, seed=section.seed, name=name)


def _later(_layer: SquareLayer, _section: AdapterSection, _name: str) -> Factors | None:
    return None


Start = Callable[[SquareLayer, AdapterSection, str], Factors | None]
STARTS: dict[str, tuple[Start, SharedOrigin]] = {
    "weights": (_from_weight, "recomputed"),
    "random": (_from_seed, "recomputed"),
    "public-gradient": (_later, "broadcast"),
    "private-gradient": (_later, "broadcast"),
    "dp-gradient": (_later, "broadcast"),
}
"""Where the factors come from, by `adapter.init`, and how a client gets them."""


class Square(LowRank):
    """Square layers in the model, `<module>.R` (r, r) trained between the frozen `<module>.B` and `<module>.A`.

    Guarantees: before `initialise`, R = 0 and the model computes what the base model computes. `initialise` starts
    from ΔW = the rank-r truncation of −η·sign(G); after a noised gradient ("dp-gradient") from that of G, with R = 0.
    """

    def _place(self) -> dict[str, nn.Parameter]:
        start, self.shared_origin = _start_of(self._section)
        for name in self._targets:
            check_rank(self._section.rank, name, dimensions(self.model.get_submodule(name)))
        self._layers: dict[str, SquareLayer] = {}
        for name in self._targets:
            layer = SquareLayer(self.model.get_submodule(name), self._section.rank)
            if factors := start(layer, self._section, name):
                layer.set_factors(factors)
            self._layers[name] = layer
        # Only now: a module that could not be adapted must leave the model as it was.
        self._frozen = put_in_place(self.model, self._layers)
        return {f"{name}.R": layer.R for name, layer in self._layers.items()}

    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """LoRA-SB's start: B·R·A is the rank-r truncation of −η·sign(G), with R = diag of the singular values.

        A noised gradient gives its leading singular vectors alone: the sign would bring the noise of every small number
        up to the size of the largest, and its singular values are mostly those of noise, so R stays 0.
        `gradients`: (out, in) by target. Raises AdapterError where the recipe names another start, where names or
        shapes differ, or where a gradient is not finite; then nothing has changed.
        """
        if self.shared_origin != "broadcast":
            raise AdapterError(f'adapter.init = "{self._section.init}" reads no gradients')
        check_same_tensors(shapes_of(gradients), self.target_shapes(), what="the set of gradients")
        if bad := [name for name, tensor in gradients.items() if not bool(torch.isfinite(tensor).all())]:
            raise AdapterError(f"the gradient of {min(bad)!r} holds NaN or infinity; try another adapter.init")
        noised = self._section.init == "dp-gradient"
        steps = {name: gradients[name].double() if noised else _first_step(gradients[name]) for name in self._targets}
        found = {name: leading_factors(step, self._section.rank, name=name) for name, step in steps.items()}
        for name, factors in found.items():
            self._layers[name].set_factors(factors)
            with torch.no_grad():
                self._layers[name].R.copy_(torch.diag(torch.zeros_like(factors.s) if noised else factors.s))
        self._sketch = None

    def _product(self, name: str, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        layer = self._layers[name]
        return exact(layer.A), exact(layer.B) @ exact(state[f"{name}.R"])


def _first_step(gradient: torch.Tensor) -> torch.Tensor:
    return -FIRST_STEP * gradient.double().sign()


def _start_of(section: AdapterSection) -> tuple[Start, SharedOrigin]:
    if section.init not in STARTS:
        raise AdapterError(
            f'a square adapter cannot start from adapter.init = "{section.init}": use one of {", ".join(STARTS)}.'
        )
    if section.dropout or section.alpha not in {None, section.rank}:
        raise AdapterError(
            "adapter.dropout and adapter.alpha are for lora: a square adapter has no dropout and a scale of one; "
            "leave them out."
        )
    return STARTS[section.init]
