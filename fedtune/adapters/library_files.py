"""A method of the `peft` library as the folder that PEFT itself would save, with the task head in it."""

import copy
import json
from pathlib import Path
from typing import Any

import torch

from fedtune.adapters.folder import write_folder
from fedtune.adapters.saved import KEY_PREFIX
from fedtune.state import State

CARD_TEXT = """---
base_model: {base}
library_name: peft
tags: [{method}, federated-learning, fedtune]
---

# A {title} adapter for {base}

Trained with fedtune: {numbers:,} numbers{head}.

```python
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "this folder")
```
"""


def write_method(
    model: Any, folder: Path, base: str, head: State, head_modules: tuple[str, ...], task_type: str
) -> None:
    """Make `folder` hold the adapter of a PEFT model and nothing else, for the base model called `base`.

    `head`: every tensor of the task head by its name in the base model, kept under PEFT's `modules_to_save`. Raises
    AdapterError and RunError as `write_folder` does.
    """
    from peft import get_peft_model_state_dict

    config = copy.deepcopy(model.peft_config[model.active_adapter])
    # Never the embeddings: they are the base model's, and PEFT would ask the Hub about their size.
    tensors: State = get_peft_model_state_dict(model, save_embedding_layers=False)
    if hasattr(config, "feedforward_modules"):
        _name_modules(config, model)
    write_tensors(config, tensors, folder, base, head, head_modules, task_type)


def write_tensors(
    config: Any, tensors: State, folder: Path, base: str, head: State, head_modules: tuple[str, ...], task_type: str
) -> None:
    """As `write_method`, of a config, which is completed, and the method's tensors by PEFT's keys."""
    prefix = "base_model." if config.is_prompt_learning else KEY_PREFIX
    tensors = tensors | {f"{prefix}{name}": tensor for name, tensor in head.items()}
    config.base_model_name_or_path = base
    config.task_type = task_type or None
    config.inference_mode = True
    if head_modules:
        config.modules_to_save = sorted(head_modules)
    own = {name: tensors[name].detach().to("cpu", copy=True).contiguous() for name in sorted(tensors)}
    write_folder(folder, own, config, _card(config, base, own, head))


def _name_modules(config: Any, model: Any) -> None:
    """Name IA3's modules one by one: PEFT loads no config whose two lists, one of them a default, do not agree."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    named = model.get_base_model().named_modules()
    layers: dict[str, Any] = {name: module for name, module in named if isinstance(module, BaseTunerLayer)}
    config.target_modules = set(layers)
    config.feedforward_modules = {name for name, layer in layers.items() if layer.is_feedforward}


def _card(config: Any, base: str, tensors: dict[str, torch.Tensor], head: State) -> str:
    method = str(config.peft_type.value).lower()
    return CARD_TEXT.format(
        base=json.dumps(base, ensure_ascii=False),
        method=method,
        title=method.replace("_", " "),
        numbers=sum(tensor.numel() for tensor in tensors.values()),
        head=", the task head among them" if head else "",
    )
