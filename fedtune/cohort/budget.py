"""How many tokens go into one pass: what a CPU's caches like, or what a GPU's memory has room for."""

from typing import Any

import torch

from fedtune.training.resident import Resident

CPU_TOKENS = 512
"""Larger passes fall out of a core's caches and are slower; smaller ones leave its products too small."""
GPU_TOKENS = 16_384
"""Products of so many rows fill the largest GPUs."""
PER_NUMBER = 160
"""Bytes that a layer's activations take for each number of a token's hidden state, measured on encoders: 40 fp32."""
PER_LOGIT = 16
"""Bytes for each logit of a causal model: itself, in fp32, its softmax, its gradient."""


def token_budget(resident: Resident) -> int:
    """Up to how many tokens a pass through `resident` is filled."""
    if resident.device.type != "cuda":
        return CPU_TOKENS
    free, _ = torch.cuda.mem_get_info(resident.device)
    return max(CPU_TOKENS, min(GPU_TOKENS, free // 2 // _bytes_a_token(resident)))


def _bytes_a_token(resident: Resident) -> int:
    """About how many bytes of activations one token takes while a pass waits for its backward pass."""
    config: Any = resident.attached.model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers = int(getattr(text, "num_hidden_layers", None) or 12)
    width = int(getattr(text, "hidden_size", None) or 1024)
    logits = int(text.vocab_size) if resident.recipe.model.task == "causal-lm" else 0
    return layers * width * PER_NUMBER + logits * PER_LOGIT
