"""The `[training]` section: the local steps of one client in one round."""

from typing import Literal

from pydantic import Field

from fedtune.recipe.base import Section


class TrainingSection(Section):
    """Optimiser, schedule, batches, precision and device."""

    epochs: int = Field(1, ge=1)
    """Passes over the client's rows in a round."""
    steps: int | None = Field(None, ge=0)
    """Optimiser steps in a round instead of whole epochs; 0 trains nothing (for measurements)."""
    batch_size: int = Field(8, ge=1)
    """Rows in one forward pass."""
    accumulate: int = Field(1, ge=1)
    """Forward passes in one optimiser step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Started anew each round, as in FedAvg."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate of the adapter."""
    head_lr: float | None = Field(None, gt=0)
    """Peak learning rate of the classification head; the adapter's unless given."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay (AdamW) or L2 (SGD)."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of SGD."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate over the local steps of a round."""
    warmup_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of the local steps over which the rate rises from zero."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Clip the norm of each step's gradient; none leaves it."""
    proximal: float = Field(0.0, ge=0)
    """FedProx: the μ of a pull (μ/2)·‖w − w_global‖² back to the global state (arXiv 1812.06127)."""
    scaffold: bool = False
    """SCAFFOLD: correct each step by control variates against client drift (arXiv 1910.06378); `sgd` only."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` autocasts the forward pass where the device has it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """torch.compile the model; pays on long runs on a GPU."""
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """`auto` takes cuda, then mps, then cpu."""
    eval_batch_size: int = Field(32, ge=1)
    """Rows in one forward pass of an evaluation."""
