"""What a client keeps on its own disk between the rounds of a run: tensors that never leave it."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedtune.errors import RunError
from fedtune.recipe import Recipe
from fedtune.runs.atomic import storage_errors, write_atomically
from fedtune.state import State

ABOUT = "kept.json"
OWN = "own/"
"""In front of the names of a client's own adapter's tensors."""
_NAME = re.compile(r"round-(\d{6,})\.safetensors")
_VERSIONS = 2


def default_folder() -> Path:
    """Where a client keeps its tensors unless it is told: `$XDG_STATE_HOME/fedtune/kept`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fedtune" / "kept"


class Keep:
    """A folder of states by run, client and round.

    Guarantees: a state is there whole or not at all; the two newest rounds stay, so that a round that the coordinator
    repeats after a crash starts from what it started from before. Files are for their owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path_of(self, run: str, client: str) -> Path:
        """The folder of one client in one run."""
        return self._folder / _file_name(run) / _file_name(client)

    def read(self, run: str, client: str, *, before: int) -> State:
        """What was kept after the newest round before `before`; empty where nothing was. RunError where damaged."""
        folder = self.path_of(run, client)
        earlier = [round_ for round_ in _rounds(folder) if round_ < before]
        return read_state(folder, max(earlier)) if earlier else {}

    def write(
        self, run: str, client: str, round_: int, state: Mapping[str, torch.Tensor], about: dict[str, Any]
    ) -> None:
        """Keep `state` as what was there after `round_`, and forget rounds that were undone or are old."""
        folder = self.path_of(run, client)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (folder / ABOUT).exists():
                write_atomically(folder / ABOUT, json.dumps(about).encode())
            path = folder / f"round-{round_:06d}.safetensors"
            write_atomically(path, save(dict(state)))
            path.chmod(0o600)
            rounds = _rounds(folder)
            for old in set(rounds) - set([r for r in rounds if r <= round_][-_VERSIONS:]):
                (folder / f"round-{old:06d}.safetensors").unlink()


def _file_name(text: str) -> str:
    """A name of its own for every text, within the folder whatever a coordinator calls its run."""
    name = quote(text, safe="")
    return {"": "%", ".": "%2E", "..": "%2E%2E"}.get(name, name)


def newest_round(folder: Path) -> int:
    """The newest round of one client's folder; raises RunError where it holds none."""
    rounds = _rounds(folder)
    if not rounds:
        raise RunError(f"{folder} holds nothing that a client kept; name the folder that has {ABOUT}")
    return rounds[-1]


def read_state(folder: Path, round_: int) -> State:
    """The state kept after a round; raises RunError where the file is damaged."""
    path = folder / f"round-{round_:06d}.safetensors"
    try:
        return dict(load(path.read_bytes()))
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged; delete it, and the client starts its own tensors anew") from error


def read_about(folder: Path) -> dict[str, Any]:
    """What the run was: `recipe` and `model_fingerprint`; raises RunError where that cannot be read."""
    try:
        return dict(json.loads((folder / ABOUT).read_bytes()))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / ABOUT} is missing or damaged; take part in the run again to write it") from error


def recipe_of(folder: Path) -> Recipe:
    """The recipe as the client was given it; raises RunError where it cannot be read."""
    try:
        return Recipe.from_coordinator(read_about(folder)["recipe"])
    except (KeyError, ValidationError) as error:
        raise RunError(f"{folder / ABOUT} is damaged or of another version of fedtune") from error


def _rounds(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name)))
