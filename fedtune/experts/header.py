"""The metadata of a compressed adapter: what its streams decode to, checked before any memory is taken for it."""

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedtune.adapters.saved import CONFIG
from fedtune.compression import Pipeline, make_pipeline
from fedtune.errors import AdapterError, RecipeError
from fedtune.experts.kinds import Config
from fedtune.recipe.compression import CompressionSection
from fedtune.state import Shapes, digest

FORMAT: Literal["fedtune-compressed-adapter"] = "fedtune-compressed-adapter"
VERSION: Literal["1"] = "1"
MOST_NUMBERS = 1 << 31
"""Numbers that a compressed adapter may decode to: 8 GiB as fp32. LoRA of rank 64 on 65 billion weights has 0.8·10⁹."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Dtypes by safetensors' names."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}

Dimension = Annotated[int, Field(ge=0, le=MOST_NUMBERS)]
Entry = tuple[Literal["F64", "F32", "F16", "BF16"], Annotated[tuple[Dimension, ...], Field(max_length=8)]]
Entries = dict[str, Entry]
"""(dtype, shape) by tensor name."""
Coder = Literal["entropy", "rice", "bitmask"]


class Header(BaseModel):
    """Every field of the file's metadata but its checksum; in the file each is a text, those not texts as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["fedtune-compressed-adapter"] = FORMAT
    version: Literal["1"] = VERSION
    coder: Coder
    """The lossless stage after `ternary`."""
    density: float = Field(gt=0, le=1)
    threshold: Literal["global", "tensor"]
    scale: Literal["least-squares", "sigma"]
    alpha: float = Field(gt=0, allow_inf_nan=False)
    reference: float
    """What is added to the numbers of the task vector: 0 for LoRA, 1 for IA3."""
    coded: Entries
    """The tensors that are in the streams: their dtypes and shapes, by PEFT's keys."""
    whole: Entries
    """The tensors that are stored by themselves: the dtypes and shapes that they had."""
    config_sha256: str
    """Of `adapter_config.json`, byte for byte."""

    @property
    def section(self) -> CompressionSection:
        """The settings of the stages."""
        return CompressionSection(
            upload=("ternary", self.coder),
            density=self.density,
            threshold=self.threshold,
            scale=self.scale,
            alpha=self.alpha,
        )

    @property
    def shapes(self) -> Shapes:
        """The shapes of the coded tensors, by sorted name."""
        return {name: self.coded[name][1] for name in sorted(self.coded)}

    @property
    def numbers(self) -> int:
        """How many numbers the streams decode to, d."""
        return sum(map(prod, self.shapes.values()))

    def pipeline(self) -> Pipeline:
        """The stages; raises AdapterError where the coder's package is not installed."""
        try:
            return make_pipeline(self.section)
        except RecipeError as error:
            raise AdapterError(
                f"coder {self.coder!r} needs a package that is not here: install constriction, or use rice"
            ) from error

    def texts(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
        """The metadata of a file with these tensors."""
        fields = self.model_dump(mode="json")
        texts = {name: field if isinstance(field, str) else json.dumps(field) for name, field in fields.items()}
        return {**texts, "sha256": _checksum(texts, tensors)}

    def check(self, config: Config, config_bytes: bytes, path: Path) -> None:
        """Raise AdapterError unless the tensors fit the config and stay within MOST_NUMBERS."""
        if self.config_sha256 != hashlib.sha256(config_bytes).hexdigest():
            raise AdapterError(f"{path} was not made for the {CONFIG} beside it; take both from their source again")
        whole = {name: shape for name, (_, shape) in self.whole.items()}
        if self.numbers + sum(map(prod, whole.values())) > MOST_NUMBERS:
            raise AdapterError(f"{path} says that it holds more than {MOST_NUMBERS} numbers, which no adapter does")
        if self.coded.keys() & self.whole.keys() or not self.coded or self.reference != config.kind.reference:
            raise AdapterError(f"{path} is damaged (its metadata contradict themselves); take it from its source again")
        if name := config.misfit({**self.shapes, **whole}):
            raise AdapterError(f"{path}: {name} has not the rank that {CONFIG} says; take both from their source again")


def header_of(texts: Mapping[str, str], path: Path) -> Header:
    """The header in a file's metadata; raises AdapterError for another format or version, and for damage."""
    if texts.get("format") != FORMAT:
        raise AdapterError(f"{path} is no compressed adapter; make one by fedtune compress")
    if texts.get("version") != VERSION:
        raise AdapterError(
            f"{path} is of version {texts.get('version', '')[:20]!r}, and version {VERSION!r} is read here"
        )
    plain = Header.model_fields.keys() - {"density", "alpha", "reference", "coded", "whole"}
    try:
        return Header.model_validate(
            {n: text if n in plain else json.loads(text) for n, text in texts.items() if n != "sha256"}
        )
    except (ValueError, ValidationError, RecursionError) as error:
        raise AdapterError(f"{path} is damaged (its metadata cannot be read); take it from its source again") from error


def check_sum(texts: Mapping[str, str], tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise AdapterError unless the checksum is that of all other metadata and of the tensors."""
    if texts.get("sha256") != _checksum({n: text for n, text in texts.items() if n != "sha256"}, tensors):
        raise AdapterError(
            f"{path} is damaged (its checksum is not that of its content); take it from its source again"
        )


def _checksum(texts: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    said = json.dumps(dict(texts), sort_keys=True) + digest(tensors)
    return hashlib.sha256(said.encode()).hexdigest()
