"""A short print of a base model, by which a coordinator and its clients see that they hold the same one."""

import hashlib
import json
from typing import Any

import torch
from torch import nn

from fedtune.models.dropout import chances
from fedtune.models.head import is_inside

SAMPLES = 61
"""Numbers read from each tensor: prime, so that the stride rarely falls in step with rows or attention heads."""

VOLATILE = frozenset(
    {
        "_name_or_path",
        "architectures",
        "dtype",
        "id2label",
        "label2id",
        "num_labels",
        "pad_token_id",
        "problem_type",
        "quantization_config",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Config fields that say how a model was saved or which task it does, not what its base computes."""


def fingerprint(model: nn.Module, head: tuple[str, ...]) -> str:
    """32 hex digits over the config, the names and shapes of the base's tensors, and samples of their numbers.

    Equal on every device, and cheap for billions of parameters: a few dozen numbers a tensor are read. It tells
    models apart; it is no proof against someone who forges a model. A quantised base has a print of its own.
    """
    hasher = hashlib.sha256(_config_text(getattr(model, "config", None)).encode())
    for name, parameter in sorted(model.named_parameters()):
        if is_inside(name, head):
            continue
        hasher.update(f"{name}\0{tuple(parameter.shape)}\0".encode())
        if parameter.is_floating_point():
            hasher.update(_samples(parameter).numpy().tobytes())
    return hasher.hexdigest()[:32]


def _samples(parameter: torch.Tensor) -> torch.Tensor:
    flat = parameter.detach().reshape(-1)
    stride = max(1, flat.numel() // SAMPLES)
    return flat[::stride].to("cpu", torch.float32).contiguous()


def _config_text(config: Any) -> str:
    # Only what differs from the class's defaults: a later version of transformers may add fields.
    if config is None:
        return ""
    defaults = _defaults(config)
    # Nor what is dropped in training: a recipe may say otherwise, and the base computes the same.
    passed_over = VOLATILE | chances(config).keys()
    told = {
        k: v for k, v in config.to_dict().items() if k not in passed_over and (k not in defaults or defaults[k] != v)
    }
    return json.dumps(told | {"model_type": config.model_type}, sort_keys=True, default=str)


def _defaults(config: Any) -> dict[str, Any]:
    try:
        return dict(type(config)().to_dict())
    except (TypeError, ValueError):  # a class that cannot be made from nothing
        return {}
