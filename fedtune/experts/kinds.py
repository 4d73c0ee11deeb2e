"""Which tensors of a PEFT folder are a task vector, and what they are counted from."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fedtune.adapters.read import Alpha, Rank, of_pattern
from fedtune.adapters.saved import CONFIG, KEY_PREFIX
from fedtune.errors import AdapterError
from fedtune.state import Shapes

MOST_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Kind:
    """A method of PEFT that has a task vector."""

    endings: tuple[str, ...]
    """Tensors whose names end so are part of it; all others (a task head, DoRA's magnitudes) are new weights."""
    reference: float
    """What every number of them is before any training has an effect."""


KINDS: Mapping[str, Kind] = {
    "LORA": Kind((".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B"), 0.0),
    "IA3": Kind((".ia3_l",), 1.0),
}
"""By `peft_type` (arXiv 2311.13171, section 2.1): LoRA's factors are the task vector, IA3's scales less one."""


class Config(BaseModel):
    """The fields of `adapter_config.json` that compression looks at."""

    model_config = ConfigDict(extra="ignore")

    peft_type: str
    r: Rank = 1
    lora_alpha: Alpha = 1.0
    rank_pattern: dict[str, Rank] = Field(default_factory=dict)
    alpha_pattern: dict[str, Alpha] = Field(default_factory=dict)

    @field_validator("rank_pattern", "alpha_pattern", mode="before")
    @classmethod
    def _none_is_empty(cls, pattern: object) -> object:
        return {} if pattern is None else pattern

    @property
    def kind(self) -> Kind:
        """The method's task vector."""
        return KINDS[self.peft_type]

    def is_delta(self, name: str) -> bool:
        """Is the tensor of this name part of the task vector?"""
        return name.endswith(self.kind.endings)

    def deltas(self, names: Iterable[str]) -> list[str]:
        """The names that are part of the task vector, sorted."""
        return sorted(filter(self.is_delta, names))

    def scale_of(self, module: str) -> float:
        """LoRA's α/r of a module."""
        return of_pattern(self.alpha_pattern, module, self.lora_alpha) / of_pattern(self.rank_pattern, module, self.r)

    def misfit(self, shapes: Shapes) -> str:
        """The first tensor that has not the rank of the config; empty where all have."""
        return next((name for name, shape in shapes.items() if not self._fits(name, shape)), "")

    def _fits(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.peft_type != "LORA" or not self.is_delta(name):
            return True
        module, _, part = name.removeprefix(KEY_PREFIX).removesuffix(".weight").rpartition(".")
        axis = 0 if part.endswith("A") else 1
        return len(shape) > axis and shape[axis] == of_pattern(self.rank_pattern, module, self.r)


def config_of(folder: Path) -> tuple[bytes, Config]:
    """The config of a PEFT folder, byte for byte and as fields.

    Raises AdapterError where it is missing or damaged, or the method has no task vector that its folder tells.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(f"{folder} holds no {CONFIG}, so it is no adapter; name the folder of one")
    try:
        raw = path.read_bytes()
        config = Config.model_validate(json.loads(raw)) if len(raw) <= MOST_CONFIG_BYTES else None
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read; take the adapter from its source again") from error
    if config is None:
        raise AdapterError(f"{path} has more than {MOST_CONFIG_BYTES} bytes, so it is no config of an adapter")
    if config.peft_type not in KINDS:
        raise AdapterError(
            f"{path} is about a {config.peft_type} adapter, whose start is not in its folder, so that there is no task "
            f"vector to compress; take one of {' and '.join(KINDS)}"
        )
    return raw, config
