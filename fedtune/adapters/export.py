"""Adapters on disk in PEFT's LoRA format: `adapter_config.json`, `adapter_model.safetensors`, a model card."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn

from fedtune.adapters.head import head_tensors

_PREFIX = "base_model.model."
_TASK_TYPES = {"sequence-classification": "SEQ_CLS", "causal-lm": "CAUSAL_LM"}
"""PEFT's names; image classification has none."""


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One module's product B·A in PEFT's shapes: a (r, n), b (m, r)."""

    a: torch.Tensor
    b: torch.Tensor
    transposed: bool
    """Does the module keep its weight as (in, out), as Conv1D does?"""


def write_peft(
    folder: Path,
    pairs: Mapping[str, LoraPair],
    model: nn.Module,
    head: tuple[str, ...],
    *,
    rank: int,
    alpha: float,
    base: str,
    task: str,
) -> None:
    """Write an adapter that `PeftModel.from_pretrained` loads; the folder appears whole or not at all.

    The task head goes along as `modules_to_save`: without it a classifier would start from another one.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(pairs),
        fan_in_fan_out=any(pair.transposed for pair in pairs.values()),
        modules_to_save=sorted(head) or None,
        base_model_name_or_path=base,
        task_type=_TASK_TYPES.get(task),
        inference_mode=True,
    )
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    config.save_pretrained(str(part))
    save_file(_tensors(pairs, head_tensors(model, head)), part / "adapter_model.safetensors", metadata={"format": "pt"})
    (part / "README.md").write_text(_card(base, task, len(pairs), rank), encoding="utf-8")
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old)
    else:
        os.replace(part, folder)


def _tensors(pairs: Mapping[str, LoraPair], head: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {f"{name}.lora_A.weight": pair.a for name, pair in pairs.items()}
    named |= {f"{name}.lora_B.weight": pair.b for name, pair in pairs.items()}
    return {_PREFIX + name: tensor.detach().cpu().clone().contiguous() for name, tensor in (named | dict(head)).items()}


def _card(base: str, task: str, modules: int, rank: int) -> str:
    return (
        f"---\nlibrary_name: peft\nbase_model: {base}\ntags: [fedtune, lora]\n---\n\n"
        f"# LoRA adapter of {base} for {task}\n\n"
        f"Fine-tuned with fedtune by federated learning: {modules} modules, rank {rank}.\n\n"
        "```python\nfrom peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base_model, folder)\n```\n"
    )
