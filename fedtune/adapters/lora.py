"""LoRA (arXiv 2106.09685) in peft's own layers: ΔW = (α/r)·B·A, both trained, A drawn from a seed, B = 0."""

import copy
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from fedtune.adapters.base import Attached
from fedtune.adapters.export import LoraPair, write_peft
from fedtune.adapters.head import trainable_head
from fedtune.adapters.layers import fold, is_transposed, replace_module, weight_shape
from fedtune.adapters.targets import resolve_targets
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.seeds import generator
from fedtune.state import Shapes, State

_NAME = "default"


class LoraAdapter(Attached):
    """LoRA on the targets of one model: r·(m + n) trained numbers a module.

    Every client starts from the same A, each module from a draw of its own, so that the mean of A means something.
    """

    shared_origin = "none"

    def __init__(self, loaded: LoadedModel, section: AdapterSection, *, task: str) -> None:
        if section.init != "kaiming":
            raise AdapterError(f"a lora adapter has no init {section.init!r}; set adapter.init = 'kaiming'")
        self.model = loaded.model
        self._head = loaded.head
        self._task = task
        self._rank = section.rank
        self._alpha = section.alpha if section.alpha is not None else float(section.rank)
        names = resolve_targets(loaded, section)
        self._shapes = {name: weight_shape(self.model.get_submodule(name)) for name in names}
        self._inject(section)
        self._layers = {name: _lora_layer(self.model, name) for name in names}
        for name, layer in self._layers.items():
            _draw(layer, section.seed, name)
        head = trainable_head(self.model, loaded.head, train=section.head)
        pairs = {
            f"{n}.{part}": getattr(layer, part)[_NAME].weight for n, layer in self._layers.items() for part in _PARTS
        }
        self._parameters = dict(sorted({**pairs, **head}.items()))

    def parameters(self) -> dict[str, nn.Parameter]:
        """`<module>.lora_A` (r, n), `<module>.lora_B` (m, r), and the head's tensors."""
        return dict(self._parameters)

    def shared(self) -> State:
        """Nothing is frozen but the base."""
        return {}

    def load_shared(self, factors: Mapping[str, torch.Tensor]) -> None:
        """Raises AdapterError: LoRA has no frozen factors."""
        raise AdapterError(f"a lora adapter has no frozen factors, but {len(factors)} were sent")

    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Raises AdapterError: LoRA starts from its seed."""
        raise AdapterError(f"a lora adapter does not start from gradients, but {len(gradients)} were given")

    def targets(self) -> tuple[str, ...]:
        """Dotted names of the adapted modules."""
        return tuple(self._layers)

    def target_shapes(self) -> Shapes:
        """(out, in) of each adapted weight."""
        return dict(self._shapes)

    def save(self, folder: Path, base: str) -> None:
        """Write PEFT's LoRA format."""
        pairs = {
            name: LoraPair(
                a=layer.lora_A[_NAME].weight.detach(),
                b=layer.lora_B[_NAME].weight.detach(),
                transposed=is_transposed(layer.get_base_layer()),
            )
            for name, layer in self._layers.items()
        }
        write_peft(
            folder, pairs, self.model, self._head, rank=self._rank, alpha=self._alpha, base=base, task=self._task
        )

    def merged(self) -> nn.Module:
        """A plain copy of the model with (α/r)·B·A added to the weights."""
        plain = copy.deepcopy(self.model)
        for name in self._layers:
            layer = _lora_layer(plain, name)
            product = layer.lora_B[_NAME].weight.detach() @ layer.lora_A[_NAME].weight.detach()
            fold(layer.get_base_layer(), product * (self._alpha / self._rank))
            replace_module(plain, name, layer.get_base_layer())
        vars(plain).pop("peft_config", None)
        return plain.requires_grad_(False)

    def _inject(self, section: AdapterSection) -> None:
        names = list(self._shapes)
        config = LoraConfig(
            r=section.rank,
            lora_alpha=self._alpha,
            lora_dropout=section.dropout,
            target_modules=names,
            fan_in_fan_out=any(is_transposed(self.model.get_submodule(name)) for name in names),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft says aloud that it handles a Conv1D beside a Linear, as it should
            inject_adapter_in_model(config, self.model, adapter_name=_NAME)


_PARTS = ("lora_A", "lora_B")


def _lora_layer(model: nn.Module, name: str) -> LoraLayer:
    layer = model.get_submodule(name)
    if not isinstance(layer, LoraLayer):
        raise AdapterError(f"peft did not put a LoRA layer on {name}; leave it out of adapter.targets")
    return layer


def _draw(layer: LoraLayer, seed: int, name: str) -> None:
    """A as LoRA draws it, Kaiming uniform with a = √5, from the seed and the module's name; B = 0; both fp32."""
    a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
    drawn = torch.empty(a.shape)
    nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator(seed, "lora-a", client=name))
    with torch.no_grad():
        a.copy_(drawn)
        b.zero_()
