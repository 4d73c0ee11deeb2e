"""QLoRA's 4-bit base (arXiv 2305.14314), where a CUDA GPU and bitsandbytes are at hand."""

import importlib.util
from typing import Any

import torch

from fedtune.errors import ModelError

PACKAGES = ("bitsandbytes", "accelerate")


def nf4_arguments(device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` that hold linear layers as NF4 with double quantisation; the head stays whole.

    Raises ModelError where the device is no CUDA GPU or a package is missing.
    """
    if device.type != "cuda":
        raise ModelError(
            f'model.quantization = "nf4" needs a CUDA GPU, and this run uses {device.type}: '
            f'set quantization = "none", or run on a machine with a GPU.'
        )
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ModelError(
            f"model.quantization = \"nf4\" needs {' and '.join(missing)}: pip install 'fedtune[quantize]', "
            f'or set quantization = "none".'
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16,
    )
    return {"quantization_config": config, "device_map": {"": device}}
