"""Trained weights on the disk: tensors that take the place of a base model's own, and what stands beside them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from fedtune.adapters.folder import write_files
from fedtune.adapters.saved import CARD, PROMPT, REPLACED, REPLACED_CONFIG
from fedtune.errors import AdapterError
from fedtune.state import State, copy_state

CARD_TEXT = """---
base_model: {base}
tags: [federated-learning, fedtune]
---

# Weights that take the place of some of {base}'s

Trained with fedtune: {count} tensors, {numbers:,} numbers, by their names in the base model{prompt}.

```python
from safetensors.torch import load_file

base_model.load_state_dict(load_file("this folder/{file}"), strict=False)
```
"""


@dataclass(frozen=True, slots=True)
class Replaced:
    """Weights for a base model, by their names in it."""

    base: str
    """What the base model is called."""
    task: str
    """The recipe's `model.task`."""
    tensors: State
    prompt: State = field(default_factory=dict)
    """Soft prompts, by their names in `fedtune.split.prompt.Prompts`; empty where there are none."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where the prompts stand: `model` and `split`, as in a recipe; empty where there are none."""


def about_file(base: str, task: str, about: Mapping[str, Any]) -> dict[str, bytes]:
    """The file that says what the tensors beside it belong to."""
    fields = {"format": "fedtune-weights", "base_model": base, "task": task, **about}
    return {REPLACED_CONFIG: json.dumps(fields, indent=2, sort_keys=True).encode() + b"\n"}


class _Config(BaseModel):
    model_config = ConfigDict(extra="ignore")

    base_model: str
    task: str
    model: dict[str, Any] = {}
    split: dict[str, Any] = {}


def write_replaced(weights: Replaced, folder: Path) -> None:
    """Make `folder` hold the weights and nothing else; raises AdapterError and RunError as `write_files` does."""
    write_files(folder, replaced_files(weights, folder))


def replaced_files(weights: Replaced, folder: Path) -> dict[str, bytes]:
    """The files by name; raises AdapterError, which names `folder`, where a number is NaN or infinite."""
    tensors = copy_state(weights.tensors)
    refuse_not_finite(tensors | weights.prompt, folder)
    own = {REPLACED: save(tensors, metadata={"format": "pt"}), CARD: _card(weights).encode()}
    return own | about_file(weights.base, weights.task, weights.about) | prompt_files(weights.prompt)


def prompt_files(prompt: State) -> dict[str, bytes]:
    """The file of soft prompts; none where there are none."""
    return {PROMPT: save(copy_state(prompt), metadata={"format": "pt"})} if prompt else {}


def refuse_not_finite(tensors: State, folder: Path) -> None:
    """Raise AdapterError where a number is NaN or infinite."""
    if bad := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise AdapterError(f"the weights were not written to {folder}: {bad[0]} holds NaN or infinity")


def read_replaced(folder: Path) -> Replaced:
    """What `write_replaced` wrote, or the prompts beside an adapter; raises AdapterError where it is damaged."""
    try:
        config = _Config.model_validate_json((folder / REPLACED_CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / REPLACED) if (folder / REPLACED).exists() else {}
        prompt = load_file(folder / PROMPT) if (folder / PROMPT).exists() else {}
    except (OSError, ValueError, ValidationError, SafetensorError) as error:
        raise AdapterError(
            f"{folder} holds no weights that fedtune wrote, or damaged ones; export them again"
        ) from error
    about = {"model": config.model, "split": config.split}
    return Replaced(config.base_model, config.task, tensors, prompt, about)


def put_in(weights: Replaced, model: nn.Module) -> None:
    """Put the weights in the place of a base model's own; raises AdapterError where it lacks one of them."""
    own = dict(model.named_parameters())
    strangers = [n for n, t in weights.tensors.items() if n not in own or own[n].shape != t.shape]
    if strangers:
        raise AdapterError(f"{strangers[0]!r} does not fit the model; load the base model {weights.base!r}")
    with torch.no_grad():
        for name, tensor in weights.tensors.items():
            own[name].copy_(tensor)


def _card(weights: Replaced) -> str:
    return CARD_TEXT.format(
        base=json.dumps(weights.base, ensure_ascii=False),
        count=len(weights.tensors),
        numbers=sum(tensor.numel() for tensor in weights.tensors.values()),
        prompt=f"; the soft prompts beside them are in {PROMPT}" if weights.prompt else "",
        file=REPLACED,
    )
