"""One checkpoint: the global state after a round, in a folder that proves itself whole when it is read."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fedtune.errors import RunError
from fedtune.runs.atomic import TEMPORARY_PREFIX, storage_errors, sync_folder, write_durably
from fedtune.state import State, digest

FORMAT = 2
"""2 has `parts`; 1 had none, and is read still."""
STATE_NAME = "state.safetensors"
SHARED_NAME = "shared.safetensors"
HEADER_NAME = "checkpoint.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that a run needs to go on after a round."""

    round: int
    state: State
    shared: State = field(default_factory=dict)
    """The frozen factors, where the recipe alone does not give them again."""
    extra: dict[str, Any] = field(default_factory=dict)
    """JSON values of the round engine (best score so far, failed rounds in a row, …)."""
    best: bool = False
    """Was this the best evaluated round so far?"""
    parts: dict[str, State] = field(default_factory=dict)
    """More named states, each a file of its own: what was added to the base weights, a server optimiser's moments, …"""


def save_checkpoint(checkpoint: Checkpoint, folder: Path, *, like: Path | None = None) -> None:
    """Write `checkpoint` as `folder`, which appears whole or not at all; one that is there already is replaced.

    `like` is an earlier checkpoint: where its shared factors are the same, they are linked instead of written again.
    Raises RunError where the disk does not take it.
    """
    part = folder.with_name(TEMPORARY_PREFIX + folder.name)
    with storage_errors(folder):
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            _write_parts(checkpoint, part, like)
            sync_folder(part)
            remove_folder(folder)
            os.rename(part, folder)
            sync_folder(folder.parent)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise


def remove_folder(folder: Path) -> None:
    """Delete a folder that may not be there, renamed first so that it is never seen half deleted; raises OSError."""
    if folder.exists():
        doomed = folder.with_name(TEMPORARY_PREFIX + "old-" + folder.name)
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint, every byte of it verified; raises RunError where one is missing or changed."""
    header = read_header(folder)
    return Checkpoint(
        round=header["round"],
        state=_read_tensors(folder, STATE_NAME, header),
        shared=_read_tensors(folder, SHARED_NAME, header) if SHARED_NAME in header["files"] else {},
        parts={name: _read_tensors(folder, _part_name(name), header) for name in header.get("parts", ())},
        extra=header["extra"],
        best=header["best"],
    )


def read_header(folder: Path) -> dict[str, Any]:
    """The verified `checkpoint.json`: round, best, files with their SHA-256, extra."""
    try:
        header = json.loads((folder / HEADER_NAME).read_bytes())
        claimed = header.pop("checksum")
        sound = bool(claimed == _checksum(header))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise RunError(f"the checkpoint {folder} is damaged ({HEADER_NAME}); choose another with --checkpoint")
    if header["format"] not in (1, FORMAT):
        raise RunError(f"the checkpoint {folder} was written by a newer version of fedtune; install that one")
    return dict(header)


def _write_parts(checkpoint: Checkpoint, part: Path, like: Path | None) -> None:
    files = {STATE_NAME: _write_tensors(part / STATE_NAME, checkpoint.state)}
    shared_digest = digest(checkpoint.shared) if checkpoint.shared else ""
    if checkpoint.shared:
        linked = _link_shared(part, like, shared_digest)
        files[SHARED_NAME] = linked or _write_tensors(part / SHARED_NAME, checkpoint.shared)
    parts = {name: tensors for name, tensors in sorted(checkpoint.parts.items()) if tensors}
    files |= {_part_name(name): _write_tensors(part / _part_name(name), tensors) for name, tensors in parts.items()}
    header: dict[str, Any] = {
        "format": FORMAT,
        "round": checkpoint.round,
        "best": checkpoint.best,
        "shared_digest": shared_digest,
        "files": files,
        "parts": list(parts),
        "extra": checkpoint.extra,
    }
    # Through JSON once, so that what is summed here is what a reader will sum (tuples, integer keys).
    header = json.loads(json.dumps(header))
    header["checksum"] = _checksum(header)
    write_durably(part / HEADER_NAME, json.dumps(header, indent=1).encode() + b"\n")


def _part_name(name: str) -> str:
    return f"{name}.safetensors"


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    content = save_tensors(dict(tensors))
    write_durably(path, content)
    return hashlib.sha256(content).hexdigest()


def _link_shared(part: Path, like: Path | None, shared_digest: str) -> str | None:
    """Link `like`'s shared factors into `part` and return their SHA-256; None where they differ or cannot be linked."""
    if like is None:
        return None
    try:
        header = read_header(like)
        if header["shared_digest"] != shared_digest:
            return None
        os.link(like / SHARED_NAME, part / SHARED_NAME)
    except (OSError, RunError):
        return None
    return str(header["files"][SHARED_NAME])


def _read_tensors(folder: Path, name: str, header: Mapping[str, Any]) -> State:
    try:
        content = (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != header["files"][name]:
            raise ValueError(name)
        return dict(load_tensors(content))
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"the checkpoint {folder} is damaged ({name}); choose another with --checkpoint") from error


def _checksum(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
