"""A PEFT folder in memory, of any method that has a task vector; read and written as it is."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from fedtune.adapters.folder import write_files
from fedtune.adapters.read import adapter_of, read_tensors
from fedtune.adapters.saved import CARD, COMPRESSED, CONFIG, WEIGHTS, SavedAdapter
from fedtune.errors import AdapterError
from fedtune.experts.header import DTYPES, NAMES
from fedtune.experts.kinds import Config, config_of
from fedtune.state import State, shapes_of


@dataclass(frozen=True, slots=True)
class Expert:
    """One finished adapter."""

    folder: Path
    """Where it was read."""
    config: Config
    files: dict[str, bytes]
    """The config and the card, byte for byte."""
    tensors: State
    """By PEFT's keys, sorted, each of the dtype that it is stored in."""

    @property
    def deltas(self) -> State:
        """The task vector, fp32: the tensors that have one, less their reference."""
        reference = self.config.kind.reference
        return {name: self.tensors[name].float() - reference for name in self.config.deltas(self.tensors)}

    @property
    def others(self) -> State:
        """The tensors that are no part of the task vector: a task head, as it is stored."""
        return {name: tensor for name, tensor in self.tensors.items() if not self.config.is_delta(name)}

    def adapter(self) -> SavedAdapter:
        """As a LoRA adapter; raises AdapterError for a variant or another method."""
        found = adapter_of(self.folder, self.tensors)
        if other := [name for name in found.head if ".lora_" in name]:
            raise AdapterError(f"{self.folder}: {other[0]!r} is no factor of a linear layer, the kind composed here")
        return found

    def write(self, folder: Path) -> None:
        """Make `folder` a plain PEFT folder of this adapter; raises AdapterError and RunError as `write_files`."""
        write_files(folder, {WEIGHTS: save(self.tensors, metadata={"format": "pt"}), **self.files})


def files_of(folder: Path) -> tuple[dict[str, bytes], Config]:
    """The config and, where there is one, the card of a folder; raises AdapterError."""
    raw, config = config_of(folder)
    card = folder / CARD
    return {CONFIG: raw, **({CARD: card.read_bytes()} if card.is_file() else {})}, config


def read_plain(folder: Path) -> Expert:
    """The adapter in a PEFT folder; raises AdapterError where it is damaged, compressed or has no task vector."""
    files, config = files_of(folder)
    if (folder / COMPRESSED).is_file():
        raise AdapterError(f"{folder} is compressed already; make it plain by fedtune compress --restore")
    tensors = read_tensors(folder)
    if not config.deltas(tensors):
        raise AdapterError(f"{folder / WEIGHTS} holds no tensors of {config.peft_type}; take the adapter again")
    if name := config.misfit(shapes_of(tensors)):
        raise AdapterError(f"{folder / WEIGHTS}: {name} has not the rank that {CONFIG} says")
    if other := [name for name, tensor in tensors.items() if tensor.dtype not in NAMES]:
        raise AdapterError(
            f"{folder / WEIGHTS}: {other[0]} is of a dtype that is no {', '.join(DTYPES)}; save it in one"
        )
    return Expert(folder, config, files, tensors)


def measure(before: State, after: State) -> tuple[float, float]:
    """(‖x̂ − x‖ / ‖x‖, cos(x, x̂)) of two task vectors, in double precision; (0, 1) where both are zero."""
    x, y = (torch.cat([state[name].double().reshape(-1) for name in sorted(state)]) for state in (before, after))
    norm, other = float(x.norm()), float(y.norm())
    if not norm or not other:
        return (0.0, 1.0) if norm == other else (1.0, 0.0)
    return float((y - x).norm()) / norm, float(x @ y) / (norm * other)
