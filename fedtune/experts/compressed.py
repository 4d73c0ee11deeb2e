"""Compressed adapters: one safetensors file with the signs of the largest numbers and a scale (arXiv 2311.13171).

`adapter_compressed.safetensors` lies beside a copy of `adapter_config.json` and holds, for all tensors of the task
vector together, flattened in the order of their sorted names,

    ternary.symbols    uint8: the stream of the coder that the metadata name (`fedtune.compression`)
    ternary.scale      fp32: the scale, or one for each tensor

and each tensor that is no part of it (a task head) under `whole.` and its name. `fedtune.experts.header` says what is
in the metadata.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fedtune.adapters.folder import write_files
from fedtune.adapters.saved import COMPRESSED, CONFIG
from fedtune.compression.base import Form
from fedtune.compression.bitmask import read_masks
from fedtune.compression.masks import Masks, masks_of
from fedtune.compression.symbols import SymbolCoder
from fedtune.errors import AdapterError, MalformedMessage
from fedtune.experts.expert import Expert, files_of, read_plain
from fedtune.experts.header import DTYPES, NAMES, Coder, Header, check_sum, header_of
from fedtune.experts.kinds import Config
from fedtune.recipe.compression import CompressionSection
from fedtune.state import State, shapes_of

SYMBOLS, SCALE = "ternary.symbols", "ternary.scale"
WHOLE = "whole."
Head = Literal["fp16", "as-is", "ternary"]
"""What becomes of tensors that are no task vector: half precision, nothing, or the same as the others."""
_HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True, slots=True)
class Compressed:
    """One compressed adapter, its checksum found right; nothing is decoded yet."""

    folder: Path
    config: Config
    files: dict[str, bytes]
    """The config and the card, byte for byte."""
    header: Header
    tensors: State
    """As in the file."""

    def expert(self) -> Expert:
        """The adapter decoded, in the dtypes that it had; raises AdapterError for streams that cannot be."""
        coded = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(WHOLE)}
        try:
            deltas = self.header.pipeline().decode(coded, self.header.shapes, seed=0)
        except MalformedMessage as error:
            raise AdapterError(f"{self.folder / COMPRESSED} is damaged ({error}); take it again") from error
        tensors = {
            name: self._restored(name, delta).to(DTYPES[self.header.coded[name][0]]) for name, delta in deltas.items()
        }
        for name, (dtype, _) in self.header.whole.items():
            tensors[name] = self.tensors[WHOLE + name].to(DTYPES[dtype])
        return Expert(self.folder, self.config, self.files, {name: tensors[name] for name in sorted(tensors)})

    def outline(self) -> Expert:
        """The adapter with tensors of shapes alone (on torch's `meta` device) in the place of those not yet decoded."""
        tensors = {n: torch.empty(shape, dtype=DTYPES[d], device="meta") for n, (d, shape) in self.header.coded.items()}
        whole = {name: self.tensors[WHOLE + name] for name in self.header.whole}
        return Expert(self.folder, self.config, self.files, dict(sorted({**tensors, **whole}.items())))

    def masks(self) -> tuple[Masks, float] | None:
        """The task vector as two bits a number and its one scale; None where tensors have scales of their own.

        Raises AdapterError for streams that cannot be.
        """
        if len(self.tensors[SCALE]) != 1:
            return None
        form, stream = Form((self.header.numbers,), torch.int8), self.tensors[SYMBOLS].numpy()
        try:
            if self.header.coder == "bitmask":
                return read_masks(stream, form), float(self.tensors[SCALE])
            stage = cast("SymbolCoder", self.header.pipeline().stages[-1])
            return masks_of(stage.unpack(stream, form)), float(self.tensors[SCALE])
        except MalformedMessage as error:
            raise AdapterError(f"{self.folder / COMPRESSED} is damaged ({error}); take it again") from error

    def write(self, folder: Path) -> int:
        """Make `folder` hold the compressed adapter and nothing else; returns the bytes of the compressed file.

        Raises AdapterError and RunError as `write_files` does.
        """
        raw: bytes = save(self.tensors, metadata=self.header.texts(self.tensors))
        write_files(folder, {COMPRESSED: raw, **self.files})
        return len(raw)

    def _restored(self, name: str, delta: torch.Tensor) -> torch.Tensor:
        return delta + self.header.reference if self.config.is_delta(name) else delta


def compress(
    expert: Expert, section: CompressionSection | None = None, *, coder: Coder = "rice", head: Head = "fp16"
) -> Compressed:
    """The adapter as signs and a scale; `section` has the density, threshold and scale of `ternary`.

    Raises AdapterError where the coder's package is not installed.
    """
    section = section or CompressionSection()
    deltas = expert.deltas
    others = expert.others
    if head == "ternary":
        deltas, others = {**deltas, **{name: tensor.float() for name, tensor in others.items()}}, {}
    header = Header(
        coder=coder,
        density=section.density,
        threshold=section.threshold,
        scale=section.scale,
        alpha=section.alpha,
        reference=expert.config.kind.reference,
        coded={name: (NAMES[expert.tensors[name].dtype], shape) for name, shape in shapes_of(deltas).items()},
        whole={name: (NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in others.items()},
        config_sha256=hashlib.sha256(expert.files[CONFIG]).hexdigest(),
    )
    tensors = header.pipeline().encode(deltas, seed=0)
    stored = {WHOLE + name: _halved(tensor) if head == "fp16" else tensor for name, tensor in others.items()}
    return Compressed(expert.folder, expert.config, expert.files, header, {**tensors, **stored})


def read_compressed(folder: Path) -> Compressed:
    """The compressed adapter in a folder, checked: sizes against their limits and the config, then the checksum.

    Raises AdapterError where anything is missing, damaged or of another version.
    """
    files, config = files_of(folder)
    path = folder / COMPRESSED
    if not path.is_file():
        raise AdapterError(f"{folder} holds no {COMPRESSED}; make one by fedtune compress")
    try:
        with safe_open(path, framework="pt") as file:
            texts = dict(file.metadata() or {})
            header = header_of(texts, path)
            header.check(config, files[CONFIG], path)
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise AdapterError(f"{path} is damaged, no safetensors file; take it from its source again") from error
    check_sum(texts, tensors, path)
    found = Compressed(folder, config, files, header, tensors)
    _check_tensors(found, path)
    return found


def read_expert(folder: Path) -> Expert:
    """The adapter in a folder, compressed or plain; raises AdapterError."""
    return read_compressed(folder).expert() if (folder / COMPRESSED).is_file() else read_plain(folder)


def _check_tensors(found: Compressed, path: Path) -> None:
    """Whoever made the file may have made the checksum, too."""
    shapes = {name: tuple(tensor.shape) for name, tensor in found.tensors.items()}
    whole = {WHOLE + name: shape for name, (_, shape) in found.header.whole.items()}
    if shapes.keys() != {SYMBOLS, SCALE, *whole} or any(shapes[name] != shape for name, shape in whole.items()):
        raise AdapterError(f"{path} is damaged (it has not the tensors that its metadata name); take it again")
    symbols, scale = found.tensors[SYMBOLS], found.tensors[SCALE]
    if symbols.dtype != torch.uint8 or symbols.ndim != 1 or scale.dtype != torch.float32 or scale.ndim != 1:
        raise AdapterError(f"{path} is damaged (its streams are of another dtype); take it from its source again")
    for name in [SCALE, *whole]:
        tensor = found.tensors[name]
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{path}: {name} holds NaN, infinity or no real numbers, so the adapter is of no use")


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    """fp32 and wider as fp16, cut to its range; two bytes a number stay as they are."""
    return tensor if tensor.element_size() <= 2 else tensor.clamp(-_HALF_MAX, _HALF_MAX).to(torch.float16)
