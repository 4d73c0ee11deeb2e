"""Writes an adapter as a PEFT LoRA folder, whole or not at all."""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from fedtune.adapters.saved import CARD, CONFIG, WEIGHTS, SavedAdapter
from fedtune.errors import AdapterError
from fedtune.runs.atomic import TEMPORARY_PREFIX, storage_errors, sync_folder, write_durably

CARD_TEXT = """---
base_model: {base}
library_name: peft
tags: [lora, federated-learning, fedtune]
---

# A LoRA adapter for {base}

Trained with fedtune: rank {rank}, {modules} adapted modules, {numbers:,} numbers{head}.

```python
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "this folder")
```
"""


def write_adapter(adapter: SavedAdapter, folder: Path) -> None:
    """Make `folder` hold the adapter and nothing else: the old adapter stays until the new one is on the disk.

    Raises AdapterError where a number is NaN or infinite, or `folder` holds anything but an adapter; RunError where the
    disk is full or the folder cannot be written.
    """
    tensors = adapter.tensors()
    if bad := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise AdapterError(f"the adapter was not written to {folder}: {bad[0]} holds NaN or infinity")
    _refuse_other_files(folder)
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{folder.name}-", dir=folder.parent))
        try:
            write_durably(temporary / WEIGHTS, save(tensors, metadata={"format": "pt"}))
            write_durably(temporary / CONFIG, json.dumps(_config(adapter), indent=2, sort_keys=True).encode() + b"\n")
            write_durably(temporary / CARD, _card(adapter).encode())
            sync_folder(temporary)
            temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
            _swap(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(folder.parent)


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; what was there goes, or comes back where that fails."""
    old = new.with_name(f"{new.name}-old")
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _refuse_other_files(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise AdapterError(f"{folder} is a file, and an adapter is a folder; name another place")
    others = {path.name for path in folder.iterdir()} - {CONFIG, WEIGHTS, CARD} if folder.exists() else set()
    if others:
        raise AdapterError(
            f"{folder} holds {min(others)!r}, which is no part of an adapter; name a new or empty folder"
        )


def _config(adapter: SavedAdapter) -> dict[str, Any]:
    """PEFT's own config, so that its defaults and version are said as it would say them."""
    from peft import LoraConfig

    ranks = adapter.ranks()
    most = max(ranks.values())
    # `^`: PEFT takes a pattern for the end of a name as well.
    others = {f"^{re.escape(name)}": rank for name, rank in sorted(ranks.items()) if rank != most}
    config = LoraConfig(
        r=most,
        lora_alpha=most,  # the scale alpha/r is one everywhere: it is in the factors
        rank_pattern=others,
        alpha_pattern=dict(others),
        target_modules=sorted(adapter.products),
        modules_to_save=sorted(adapter.head_modules) or None,
        task_type=adapter.task_type or None,
        base_model_name_or_path=adapter.base,
        fan_in_fan_out=adapter.transposed,
        inference_mode=True,
    )
    return {key: sorted(v) if isinstance(v, set) else v for key, v in config.to_dict().items()}


def _card(adapter: SavedAdapter) -> str:
    return CARD_TEXT.format(
        base=json.dumps(adapter.base, ensure_ascii=False),
        rank=max(adapter.ranks().values()),
        modules=len(adapter.products),
        numbers=sum(tensor.numel() for tensor in adapter.tensors().values()),
        head=", the task head among them" if adapter.head else "",
    )
