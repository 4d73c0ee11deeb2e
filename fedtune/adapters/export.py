"""A low-rank adapter as a PEFT LoRA folder, for whatever loads those."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedtune.adapters.folder import write_folder
from fedtune.adapters.saved import SavedAdapter

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


def write_adapter(adapter: SavedAdapter, folder: Path, more: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """Make `folder` hold the adapter, files that stand beside it, and nothing else.

    Raises AdapterError and RunError as `write_folder` does.
    """
    write_folder(folder, adapter.tensors(), _config(adapter), _card(adapter), more)


def _config(adapter: SavedAdapter) -> Any:
    from peft import LoraConfig

    ranks = adapter.ranks()
    most = max(ranks.values())
    # `^`: PEFT takes a pattern for the end of a name as well.
    others = {f"^{re.escape(name)}": rank for name, rank in sorted(ranks.items()) if rank != most}
    return LoraConfig(
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


def _card(adapter: SavedAdapter) -> str:
    return CARD_TEXT.format(
        base=json.dumps(adapter.base, ensure_ascii=False),
        rank=max(adapter.ranks().values()),
        modules=len(adapter.products),
        numbers=sum(tensor.numel() for tensor in adapter.tensors().values()),
        head=", the task head among them" if adapter.head else "",
    )
