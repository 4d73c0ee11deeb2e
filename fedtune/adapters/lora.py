"""LoRA (arXiv 2106.09685) with PEFT's own layers: ΔW = (α/r)·B·A, both factors trained."""

import re
import warnings
from collections.abc import Mapping

import torch
from torch import nn

from fedtune.adapters.base import SharedOrigin
from fedtune.adapters.layers import base_of, is_transposed
from fedtune.adapters.lora_start import draw_a
from fedtune.adapters.low_rank import LowRank, cpu
from fedtune.errors import AdapterError

ADAPTER = "default"
"""PEFT's name for the one adapter that its layers hold."""


START = "kaiming"
"""The one `adapter.init` that LoRA has: A uniform within ±1/√in, as in the paper's code, and B zero."""


class Lora(LowRank):
    """PEFT's LoRA layers in the model, `<module>.lora_A` (r, in) and `<module>.lora_B` (out, r) trained.

    Every module's A has a draw of its own, from `adapter.seed` and the module's name: the same on all machines.
    """

    shared_origin: SharedOrigin = "none"

    def _place(self) -> dict[str, nn.Parameter]:
        if self._section.init != START:
            raise AdapterError(
                f'a lora adapter cannot start from adapter.init = "{self._section.init}": use "{START}", or set '
                f'adapter.kind = "square".'
            )
        self._inject()
        trained: dict[str, nn.Parameter] = {}
        for name in self._targets:
            a, b = self._factors(name)
            with torch.no_grad():
                a.copy_(draw_a(*a.shape, seed=self._section.seed, module=name))
                b.zero_()
            trained |= {f"{name}.lora_A": a, f"{name}.lora_B": b}
        return trained

    def _inject(self) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=self._section.rank,
            lora_alpha=self._alpha,
            lora_dropout=self._section.dropout,
            target_modules="|".join(map(re.escape, self._targets)),  # a pattern means these names and no others
            fan_in_fan_out=all(is_transposed(base_of(self.model.get_submodule(name))) for name in self._targets),
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT sets fan_in_fan_out right by itself, layer by layer
            inject_adapter_in_model(config, self.model, ADAPTER)
        for name in self._targets:
            layer = self.model.get_submodule(name)
            layer.get_submodule("lora_A").float()
            layer.get_submodule("lora_B").float()

    def _factors(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        layer = self.model.get_submodule(name)
        return layer.get_parameter(f"lora_A.{ADAPTER}.weight"), layer.get_parameter(f"lora_B.{ADAPTER}.weight")

    @property
    def _alpha(self) -> float:
        return float(self._section.alpha or self._section.rank)

    def _products(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {name: (cpu(a), cpu(b)) for name in self._targets for a, b in [self._factors(name)]}

    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Raise AdapterError: LoRA's start reads no gradients."""
        raise AdapterError(f'adapter.init = "{self._section.init}" of a lora adapter reads no gradients')
