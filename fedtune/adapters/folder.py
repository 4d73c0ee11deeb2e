"""Writes a PEFT adapter folder: config, tensors and model card, whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save

from fedtune.adapters.saved import CARD, COMPRESSED, CONFIG, PROMPT, REPLACED, REPLACED_CONFIG, WEIGHTS
from fedtune.errors import AdapterError
from fedtune.runs.atomic import TEMPORARY_PREFIX, storage_errors, sync_folder, write_durably
from fedtune.state import State

PARTS = frozenset({CONFIG, WEIGHTS, CARD, COMPRESSED, REPLACED, REPLACED_CONFIG, PROMPT})
"""The files that folders of adapters may hold; one with any other is not replaced."""


def write_folder(
    folder: Path, tensors: State, config: Any, card: str, more: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """Make `folder` hold the adapter and nothing else: the old adapter stays until the new one is on the disk.

    `config` is one of PEFT's, so that its defaults and version are said as it would say them; `more` are files that
    stand beside PEFT's. Raises AdapterError where a number is NaN or infinite, or `folder` holds anything but an
    adapter; RunError where the disk is full or the folder cannot be written.
    """
    if bad := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise AdapterError(f"the adapter was not written to {folder}: {bad[0]} holds NaN or infinity")
    fields = json.dumps(_fields(config), indent=2, sort_keys=True).encode() + b"\n"
    own = {WEIGHTS: save(tensors, metadata={"format": "pt"}), CONFIG: fields, CARD: card.encode()}
    write_files(folder, {**own, **more})


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make `folder` hold these files and nothing else; raises AdapterError and RunError as `write_folder` does."""
    _refuse_other_files(folder)
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{folder.name}-", dir=folder.parent))
        try:
            for name, content in files.items():
                write_durably(temporary / name, content)
            sync_folder(temporary)
            temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
            _swap(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(folder.parent)


def _fields(config: Any) -> dict[str, Any]:
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}


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
    others = {path.name for path in folder.iterdir()} - PARTS if folder.exists() else set()
    if others:
        raise AdapterError(
            f"{folder} holds {min(others)!r}, which is no part of an adapter; name a new or empty folder"
        )
