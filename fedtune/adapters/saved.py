"""An adapter as it lies on the disk, before it is files and after."""

from dataclasses import dataclass

from fedtune.adapters.base import Products
from fedtune.state import State, copy_state

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
"""The files of a PEFT adapter folder."""

COMPRESSED = "adapter_compressed.safetensors"
"""The file that takes the place of WEIGHTS in the folder of a compressed adapter (`fedtune.experts`)."""

REPLACED, REPLACED_CONFIG = "weights.safetensors", "weights_config.json"
"""The files of weights that take the place of a base model's (`fedtune.adapters.replaced`)."""

PROMPT = "prompt.safetensors"
"""The file of the soft prompts of a split model."""

TASK_TYPES = {"sequence-classification": "SEQ_CLS", "causal-lm": "CAUSAL_LM", "image-classification": ""}
"""PEFT's name for each task; it has none for images."""

KEY_PREFIX = "base_model.model."
"""What PEFT writes in front of every name of the base model."""


@dataclass(frozen=True, slots=True)
class SavedAdapter:
    """A LoRA adapter for PEFT: W0·x + B·A·x for each of its modules, and a task head of its own."""

    base: str
    """What `base_model_name_or_path` says."""
    products: Products
    """(A, B) of shapes (q, in) and (out, q) by dotted module name, any scale in B."""
    head: State
    """Every tensor of the task head, by its name in the base model."""
    head_modules: tuple[str, ...]
    """Dotted names of the modules that `head` fills."""
    task_type: str
    """PEFT's name of the task; empty where it has none."""
    transposed: bool
    """Are there layers among the modules that hold their weight as (in, out)?"""

    def ranks(self) -> dict[str, int]:
        """The inner dimension of each product."""
        return {name: a.shape[0] for name, (a, _) in self.products.items()}

    def tensors(self) -> State:
        """All tensors by PEFT's keys, sorted: fp32."""
        keyed = {f"{name}.lora_A.weight": a for name, (a, _) in self.products.items()}
        keyed |= {f"{name}.lora_B.weight": b for name, (_, b) in self.products.items()}
        keyed |= self.head
        return copy_state({f"{KEY_PREFIX}{name}": tensor for name, tensor in keyed.items()})
