"""LoRA (arXiv 2106.09685) with PEFT's own layers: ΔW = (α/r)·B·A, both factors trained, or B alone (2403.12313)."""

import re
import warnings
from collections.abc import Mapping

import torch
from torch import nn

from fedtune.adapters.layers import base_of, is_transposed
from fedtune.adapters.lora_start import draw_a
from fedtune.adapters.low_rank import LowRank, exact
from fedtune.errors import AdapterError
from fedtune.state import State

ADAPTER = "default"
"""PEFT's name for the one adapter that its layers hold."""


START = "kaiming"
"""The one `adapter.init` that LoRA has: A uniform within ±1/√in, as in the paper's code, and B zero."""


class Lora(LowRank):
    """PEFT's LoRA layers in the model, `<module>.lora_A` (r, in) and `<module>.lora_B` (out, r) trained.

    Every module's A has a draw of its own, from `adapter.seed` and the module's name: the same on all machines. With
    `adapter.freeze_a` (FFA-LoRA, arXiv 2403.12313) it stays at that draw, never travels, and B alone is trained.
    """

    def _place(self) -> dict[str, nn.Parameter]:
        if self._section.init != START:
            raise AdapterError(
                f'a lora adapter cannot start from adapter.init = "{self._section.init}": use "{START}", or set '
                f'adapter.kind = "square".'
            )
        alpha = float(self._section.alpha or self._section.rank)
        self.scale = alpha / self._section.rank
        self._inject(alpha)
        trained: dict[str, nn.Parameter] = {}
        for name in self._targets:
            a, b = self._factors(name)
            with torch.no_grad():
                a.copy_(draw_a(*a.shape, seed=self._section.seed, module=name))
                b.zero_()
            trained |= {f"{name}.lora_A": a, f"{name}.lora_B": b}
        if not self._section.freeze_a:
            return trained
        self.shared_origin = "recomputed"
        for name in sorted(name for name in trained if name.endswith(".lora_A")):
            self._frozen[name] = trained.pop(name).requires_grad_(False)
        return trained

    def _inject(self, alpha: float) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=self._section.rank,
            lora_alpha=alpha,
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

    def _product(self, name: str, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        a = state[f"{name}.lora_A"] if not self._frozen else self._frozen[f"{name}.lora_A"]
        return exact(a), exact(state[f"{name}.lora_B"]) * self.scale

    def initialise(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Raise AdapterError: LoRA's start reads no gradients."""
        raise AdapterError(f'adapter.init = "{self._section.init}" of a lora adapter reads no gradients')
