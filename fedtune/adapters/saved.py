"""An adapter as it lies on the disk, before it is files and after."""

from dataclasses import dataclass

import torch

from fedtune.state import State

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
"""The files of a PEFT adapter folder."""

KEY_PREFIX = "base_model.model."
"""What PEFT writes in front of every name of the base model."""


@dataclass(frozen=True, slots=True)
class SavedAdapter:
    """A LoRA adapter for PEFT: W0·x + (alpha/rank)·B·A·x for each of its modules, and a task head of its own."""

    base: str
    """What `base_model_name_or_path` says."""
    rank: int
    alpha: float
    products: dict[str, tuple[torch.Tensor, torch.Tensor]]
    """(A, B) of shapes (r, in) and (out, r) by dotted module name."""
    head: State
    """Every tensor of the task head, by its name in the base model."""
    head_modules: tuple[str, ...]
    """Dotted names of the modules that `head` fills."""
    task_type: str
    """PEFT's name of the task; empty where it has none."""
    transposed: bool
    """Are there layers among the modules that hold their weight as (in, out)?"""

    def tensors(self) -> State:
        """All tensors by PEFT's keys, sorted."""
        keyed = {f"{name}.lora_A.weight": a for name, (a, _) in self.products.items()}
        keyed |= {f"{name}.lora_B.weight": b for name, (_, b) in self.products.items()}
        keyed |= self.head
        return {f"{KEY_PREFIX}{name}": keyed[name] for name in sorted(keyed)}
