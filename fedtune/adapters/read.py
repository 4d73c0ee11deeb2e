"""Reads a PEFT LoRA folder, and says in one sentence what is wrong with a damaged one."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedtune.adapters.base import Products
from fedtune.adapters.saved import CONFIG, KEY_PREFIX, WEIGHTS, SavedAdapter
from fedtune.errors import AdapterError
from fedtune.state import State

Rank = Annotated[int, Field(ge=1)]
Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Value = TypeVar("Value", int, float)
PARTS = (".lora_A.weight", ".lora_B.weight")


class _Config(BaseModel):
    """The fields of `adapter_config.json` that make a LoRA adapter; the many others are passed over."""

    model_config = ConfigDict(extra="ignore")

    peft_type: str
    base_model_name_or_path: str | None = None
    r: Rank
    lora_alpha: Alpha
    modules_to_save: list[str] | None = None
    task_type: str | None = None
    fan_in_fan_out: bool = False
    use_dora: bool = False
    use_rslora: bool = False
    rank_pattern: dict[str, Rank] = Field(default_factory=dict)
    alpha_pattern: dict[str, Alpha] = Field(default_factory=dict)

    @field_validator("rank_pattern", "alpha_pattern", mode="before")
    @classmethod
    def _none_is_empty(cls, pattern: object) -> object:
        return {} if pattern is None else pattern

    def rank_of(self, module: str) -> int:
        """The rank that the module is to have."""
        return of_pattern(self.rank_pattern, module, self.r)

    def scale_of(self, module: str) -> float:
        """What the module's product is multiplied by."""
        return of_pattern(self.alpha_pattern, module, self.lora_alpha) / self.rank_of(module)


def of_pattern(pattern: dict[str, Value], module: str, default: Value) -> Value:
    """As PEFT reads it: the first pattern that the module's name is, or ends in as in `.name`; `^` means the whole.

    Patterns are names with `.` as it is or escaped: a stranger's regular expression could take for ever to match.
    """
    for key, value in pattern.items():
        name = re.sub(r"\\([^\w\s])", r"\1", key)
        if module == name.removeprefix("^") or (not name.startswith("^") and module.endswith(f".{name}")):
            return value
    return default


def read_adapter(folder: Path) -> SavedAdapter:
    """The LoRA adapter in a PEFT folder, fp32 on the CPU with alpha/r in B; every product is checked to be one.

    Ranks and alphas may differ from module to module. Raises AdapterError where files are missing, damaged or of
    another kind. Pickled weights are never opened.
    """
    return _adapter(folder, _read_config(folder), read_tensors(folder))


def adapter_of(folder: Path, tensors: State) -> SavedAdapter:
    """The LoRA adapter that `tensors`, by PEFT's keys, are under the config in `folder`; raises AdapterError."""
    return _adapter(folder, _read_config(folder), tensors)


def _adapter(folder: Path, config: _Config, tensors: State) -> SavedAdapter:
    named = {name.removeprefix(KEY_PREFIX): tensors[name].float() for name in sorted(tensors)}
    return SavedAdapter(
        base=config.base_model_name_or_path or "",
        products=_pair(folder, named, config),
        head={name: tensor for name, tensor in named.items() if not name.endswith(PARTS)},
        head_modules=tuple(config.modules_to_save or ()),
        task_type=config.task_type or "",
        transposed=config.fan_in_fan_out,
    )


def _read_config(folder: Path) -> _Config:
    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(
            f"{folder} holds no {CONFIG}, so it is no adapter; name the folder that save or export wrote"
        )
    try:
        fields: Any = json.loads(path.read_text(encoding="utf-8"))
        method = fields.get("peft_type", "LORA") if isinstance(fields, dict) else "LORA"
        config = _Config.model_validate(fields) if method == "LORA" else None  # others have other fields
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read ({_said(error)}); take the adapter from its source again") from error
    if config is None or config.use_dora or config.use_rslora:
        raise AdapterError(f"{path} is not about a plain LoRA adapter (no variants of it), the kind read here")
    return config


def read_tensors(folder: Path) -> State:
    """All tensors of a PEFT folder by PEFT's keys, sorted, as they are stored.

    Raises AdapterError where the file is missing or damaged, or a tensor holds anything but finite real numbers.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise AdapterError(f"{folder} holds no {WEIGHTS}; pickled weights are never opened, so save it as safetensors")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise AdapterError(f"{path} is damaged ({_said(error)}); take the adapter from its source again") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{path}: {name} holds NaN, infinity or no real numbers, so the adapter is of no use")
    return {name: tensors[name] for name in sorted(tensors)}


def _pair(folder: Path, named: State, config: _Config) -> Products:
    modules = sorted({name.removesuffix(part) for part in PARTS for name in named if name.endswith(part)})
    if not modules:
        raise AdapterError(f"{folder / WEIGHTS} holds no LoRA factors; take the adapter from its source again")
    pairs = {}
    for module in modules:
        a, b = (named.get(f"{module}{part}") for part in PARTS)
        rank = config.rank_of(module)
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or not a.shape[0] == b.shape[1] == rank:
            raise AdapterError(
                f"{folder / WEIGHTS}: {module} has no lora_A and lora_B of rank {rank}, as {CONFIG} says"
            )
        pairs[module] = (a, b * config.scale_of(module))
    return pairs


def _said(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
