"""The square adapter: a trainable R between frozen orthonormal B and A (LoRA-SB, arXiv 2411.19557; Fed-SB, 2502.15436).

With orthonormal factors and a scale of one, back-propagation through R already gives the best approximation of the
full weight's gradient (LoRA-SB, theorem 3), and the map R ↦ B·R·A keeps norms, so noise on R is not amplified.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from fedtune.adapters.base import Attached, SharedOrigin
from fedtune.adapters.check import check_same_tensors
from fedtune.adapters.export import LoraPair, write_peft
from fedtune.adapters.factors import random_factors, svd_factors
from fedtune.adapters.head import trainable_head
from fedtune.adapters.layers import dense_weight, fold, is_transposed, replace_module, weight_shape
from fedtune.adapters.square_layer import SquareLayer
from fedtune.adapters.targets import resolve_targets
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.state import Shapes, State, copy_state, shapes_of

FIRST_STEP = 1e-6
"""η of the gradient initialisations: R₀ = η·S. The published scripts take the first warm-up rate, counted so that it
is about this; what the start contributes is the subspace."""

_ORIGINS: dict[str, SharedOrigin] = {
    "weights": "recomputed",
    "random": "recomputed",
    "public-gradient": "broadcast",
    "private-gradient": "broadcast",
}


class SquareAdapter(Attached):
    """Square adapters on the targets of one model; r² trained numbers a module, whatever its size."""

    def __init__(self, loaded: LoadedModel, section: AdapterSection, *, task: str) -> None:
        if section.init not in _ORIGINS:
            raise AdapterError(f"a square adapter has no init {section.init!r}; choose {', '.join(_ORIGINS)}")
        self.model = loaded.model
        self.shared_origin = _ORIGINS[section.init]
        self._head = loaded.head
        self._task = task
        self._section = section
        self._layers = {name: self._wrap(name) for name in resolve_targets(loaded, section)}
        head = trainable_head(self.model, loaded.head, train=section.head)
        self._parameters = dict(sorted({**{f"{n}.R": layer.R for n, layer in self._layers.items()}, **head}.items()))

    def parameters(self) -> dict[str, nn.Parameter]:
        """R of each module, `<module>.R` (r, r), and the head's tensors."""
        return dict(self._parameters)

    def shared(self) -> State:
        """B (m, r) and A (r, n) of each module, `<module>.B` and `<module>.A`."""
        return copy_state(self._factors())

    def load_shared(self, factors: Mapping[str, torch.Tensor]) -> None:
        """Put broadcast factors in place; raises AdapterError where names or shapes differ."""
        check_same_tensors(shapes_of(factors), shapes_of(self._factors()), what="the frozen factors")
        for name, layer in self._layers.items():
            layer.set_factors(factors[f"{name}.B"], factors[f"{name}.A"])

    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """B·R₀·A = the best rank-r approximation of −η·sign(G) (arXiv 2411.19557, algorithm 1); A, B orthonormal."""
        if self.shared_origin != "broadcast":
            raise AdapterError(f"adapter.init = {self._section.init!r} reads no gradients")
        check_same_tensors(shapes_of(gradients), self.target_shapes(), what="the gradients")
        for name, layer in self._layers.items():
            b, s, a = svd_factors(-gradients[name].sign(), self._section.rank)
            layer.set_factors(b, a)
            with torch.no_grad():
                layer.R.copy_(torch.diag(s * FIRST_STEP))

    def targets(self) -> tuple[str, ...]:
        """Dotted names of the adapted modules."""
        return tuple(self._layers)

    def target_shapes(self) -> Shapes:
        """(out, in) of each adapted weight."""
        return {name: weight_shape(layer.base) for name, layer in self._layers.items()}

    def save(self, folder: Path, base: str) -> None:
        """Write a plain PEFT LoRA: lora_A = A, lora_B = B·R, scale one."""
        pairs = {
            name: LoraPair(a=layer.A, b=layer.B @ layer.R.detach(), transposed=is_transposed(layer.base))
            for name, layer in self._layers.items()
        }
        rank = self._section.rank
        write_peft(folder, pairs, self.model, self._head, rank=rank, alpha=rank, base=base, task=self._task)

    def merged(self) -> nn.Module:
        """A plain copy of the model with B·R·A added to the weights."""
        plain = copy.deepcopy(self.model)
        for name in self._layers:
            layer = plain.get_submodule(name)
            if isinstance(layer, SquareLayer):
                fold(layer.base, layer.product())
                replace_module(plain, name, layer.base)
        return plain.requires_grad_(False)

    def _factors(self) -> dict[str, torch.Tensor]:
        return {f"{name}.{part}": getattr(layer, part) for name, layer in self._layers.items() for part in "AB"}

    def _wrap(self, name: str) -> SquareLayer:
        base = self.model.get_submodule(name)
        shape, rank = weight_shape(base), self._section.rank
        if rank > min(shape):
            raise AdapterError(
                f"adapter.rank = {rank} is more than {name} allows, whose weight is {shape[0]}×{shape[1]}; lower it"
            )
        layer = SquareLayer(base, rank)
        if self._section.init == "weights":
            b, _, a = svd_factors(dense_weight(base), rank)
            layer.set_factors(b, a)
        elif self._section.init == "random":
            layer.set_factors(*random_factors(shape, rank, seed=self._section.seed, name=name))
        replace_module(self.model, name, layer)
        return layer
