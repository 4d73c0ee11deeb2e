"""The `[split]` section: where the model is cut between client and coordinator, and the phases of a round."""

import math
from typing import Literal

from pydantic import Field

from fedtune.recipe.base import Section


class SplitSection(Section):
    """Cuts, soft prompts, the phases of a round, and what crosses the cuts."""

    head_layers: int | None = Field(None, ge=0)
    """How many layers after the embeddings the client keeps; "none" leaves the whole model with it: no split. 0 keeps
    the embeddings alone."""
    tail_layers: int = Field(1, ge=0)
    """How many of the last layers, with the norm and the task's head behind them, the client keeps."""
    train_head: bool = False
    """Train the head's layers too, not the tail's alone."""
    prompt_tokens: int = Field(0, ge=0, le=1024)
    """Trained soft-prompt vectors that stand among the tokens (arXiv 2101.00190, 2203.12119); 0 for none."""
    prompt_at: Literal["input", "cut"] = "input"
    """`input`: behind the embeddings. `cut`: after the head's layers, where their gradient alone comes back."""
    deep_prompts: bool = False
    """Fresh prompt vectors at every layer that the client keeps, instead of at the first alone."""
    local_epochs: int = Field(0, ge=0)
    """Passes over the client's rows from head to tail without the body, before anything is sent (SFPrompt, phase 1)."""
    keep: float = Field(1.0, gt=0, le=1)
    """The share of rows that take part in split training: those that the short-circuited model gets most wrong (EL2N,
    arXiv 2107.07075)."""
    body: Literal["frozen", "lora", "square", "full"] = "frozen"
    """What the coordinator trains of the body: nothing, or as the `adapter.kind` of the same name an adapter
    (SplitLoRA, arXiv 2407.00952) or all of it (SplitFed, arXiv 2004.12088)."""
    activations: Literal["fp32", "fp16", "bf16", "int8", "topk"] = "fp32"
    """How numbers cross the cuts. `int8`: one scale a token. `topk`: the largest of each token in int8."""
    topk: float = Field(0.1, gt=0, le=1)
    """The share of a token's numbers that `topk` sends."""
    in_flight: int = Field(4, ge=1, le=64)
    """Micro-batches on their way at once; more than one needs training.accumulate above 1."""
    noise_multiplier: float = Field(0.0, ge=0)
    """Standard deviation of the normal noise on every number of the activations that leave, over `clip`; 0 adds none,
    and promises nothing. With noise, ε is stated for the activations of each row, and for nothing else that leaves."""
    clip: float = Field(1.0, gt=0)
    """The Euclidean norm that all activations of one row, of one pass, are clipped to where there is noise."""
    delta: float | None = Field(None, gt=0, lt=0.1)
    """δ of what the noise promises: required with noise; below one over the number of rows, for example 1e-5."""

    @property
    def active(self) -> bool:
        """Is the model split?"""
        return self.head_layers is not None

    @property
    def trains_body(self) -> bool:
        """Does the coordinator train anything of the body?"""
        return self.active and self.body != "frozen"


def kept_rows(rows: int, keep: float) -> int:
    """⌈keep · rows⌉, the rows that pass the body; what floating point adds to a whole number is no row."""
    return math.ceil(keep * rows - 1e-9)
