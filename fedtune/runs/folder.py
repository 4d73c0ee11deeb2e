"""The folder of one run: made once, written by one process, readable at any moment, resumable after any crash."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedtune.errors import RunError
from fedtune.recipe import Recipe
from fedtune.recipe.dump import dump
from fedtune.runs.atomic import TEMPORARY_PREFIX, storage_errors, sync_folder, write_atomically
from fedtune.runs.checkpoint import Checkpoint
from fedtune.runs.checkpoints import CheckpointStore
from fedtune.runs.environment import changed_values, describe_environment
from fedtune.runs.info import Resumption, RunInfo, Status, now
from fedtune.runs.journal import RoundJournal
from fedtune.runs.lock import LOCK_NAME, FolderLock, is_locked
from fedtune.runs.record import RoundRecord

INFO, RECIPE, RECIPE_TOML, ENVIRONMENT = "run.json", "recipe.json", "recipe.toml", "environment.json"
_STARTED = {RECIPE, RECIPE_TOML, ENVIRONMENT, LOCK_NAME}
"""What a start that was cut short may leave; `run.json` is written last."""


class RunFolder:
    """A run's recipe, environment, rounds, checkpoints, adapter and plots.

    Guarantees: a run that is there is never overwritten; one process writes at a time; killed between any two
    writes, the folder opens, and `rewind` gives the newest state that is whole.
    """

    def __init__(self, path: Path, recipe: Recipe, info: RunInfo, lock: FolderLock | None = None) -> None:
        self.path = path
        self.recipe = recipe
        self.info = info
        self.journal = RoundJournal(path / "rounds.jsonl")
        self.checkpoints = CheckpointStore(path / "checkpoints", keep=recipe.run.keep_checkpoints)
        self.resumed = False
        """Was the run there before this process took it up?"""
        self._lock = lock

    @classmethod
    def create(cls, recipe: Recipe, *, folder: Path | None = None, resume: bool = False) -> "RunFolder":
        """Start the run `folder`, by default `run.folder`/`run.name`, and lock it for this process.

        With `resume`, a run that is there is taken up again (call `rewind` next), and one that is not is started.
        Raises RunError where the folder holds a run and `resume` is off, or holds another run's recipe, or
        something else, or is being written by another process.
        """
        path = folder or Path(recipe.run.folder) / recipe.run.name
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            sync_folder(path.parent)
        lock = FolderLock(path)
        try:
            if (path / INFO).exists():
                return cls._take_up(path, recipe, lock, resume=resume)
            return cls._start(path, recipe, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open a run to read it, also while it is being written; raises RunError where it is none or is damaged."""
        if not (path / INFO).is_file():
            raise RunError(f"{path} is no run folder (it has no {INFO}); name the folder that a run wrote")
        return cls(path, _read_recipe(path), _read_info(path))

    @classmethod
    def _start(cls, path: Path, recipe: Recipe, lock: FolderLock) -> "RunFolder":
        strangers = [
            e.name for e in path.iterdir() if e.name not in _STARTED and not e.name.startswith(TEMPORARY_PREFIX)
        ]
        if strangers:
            raise RunError(f"{path} is no run folder and holds {strangers[0]}; choose another run.name or run.folder")
        started = cls(path, recipe, RunInfo(name=recipe.run.name), lock)
        seeds = {"run": recipe.run.seed, "adapter": recipe.adapter.seed}
        environment = {"started_at": started.info.started_at, "seeds": seeds, **describe_environment()}
        _write_recipe(path, recipe)
        write_atomically(path / ENVIRONMENT, _json_bytes(environment))
        started._write_info()
        return started

    @classmethod
    def _take_up(cls, path: Path, recipe: Recipe, lock: FolderLock, *, resume: bool) -> "RunFolder":
        opened = cls.open(path)
        if not resume:
            is_over = "a finished run" if opened.info.status == "finished" else "a run that was not finished"
            raise RunError(f"{path} holds {is_over}; go on with it by --resume, or choose another run.name")
        _refuse_another_recipe(opened.recipe, recipe, path)
        taken = cls(path, recipe, opened.info, lock)
        taken.resumed = True
        if recipe != opened.recipe:
            _write_recipe(path, recipe)
        return taken

    def rewind(self) -> Checkpoint | None:
        """Go back to the newest sound checkpoint and drop what was recorded after it; None where there is none yet.

        The run goes on with the round after the checkpoint's. Raises RunError where every checkpoint is damaged.
        """
        self.journal.mend()
        checkpoint = self.checkpoints.latest()
        round_ = checkpoint.round if checkpoint else -1
        self.journal.truncate_after(round_)
        self.checkpoints.truncate_after(round_)
        if self.resumed:
            self._note_resumption(round_)
        return checkpoint

    def finish_round(self, record: RoundRecord, checkpoint: Checkpoint) -> None:
        """Record a round and then its state: killed in between, the round is done again and counted once."""
        self.journal.append(record)
        self.checkpoints.save(checkpoint)

    def describe(self, *, model_fingerprint: str | None = None, **facts: str | int | float) -> None:
        """Add facts to `run.json`; `trainable_parameters=9` is shown as “trainable parameters”."""
        named = {name.replace("_", " "): value for name, value in facts.items()}
        self._update(
            model_fingerprint=self.info.model_fingerprint if model_fingerprint is None else model_fingerprint,
            facts={**self.info.facts, **named},
        )

    def end(self, status: Status, reason: str = "") -> None:
        """Write down how the run ended, with one sentence where it did not finish."""
        self._update(status=status, reason=reason, ended_at=now())

    def rounds(self) -> tuple[RoundRecord, ...]:
        """Every recorded round, in order."""
        return self.journal.read()

    def environment(self) -> dict[str, Any]:
        """What `environment.json` says; empty where it is missing or damaged, for no result hangs on it."""
        try:
            values = json.loads((self.path / ENVIRONMENT).read_bytes())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    @property
    def status(self) -> str:
        """`running`, `finished`, `stopped`, `failed`; `interrupted` where it says running and nobody writes it."""
        interrupted = self.info.status == "running" and self._lock is None and not is_locked(self.path)
        return "interrupted" if interrupted else self.info.status

    @property
    def adapter_path(self) -> Path:
        """Where the run's adapter is written in PEFT's format."""
        return self.path / "adapter"

    @property
    def plots_path(self) -> Path:
        """Where the PNGs are."""
        return self.path / "plots"

    @property
    def tensorboard_path(self) -> Path:
        """Where TensorBoard's event files are."""
        return self.path / "tensorboard"

    def close(self) -> None:
        """Let another process write; harmless when called twice."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _note_resumption(self, round_: int) -> None:
        before = self.environment()
        changes = changed_values(before, {**before, **describe_environment()})
        resumption = Resumption(at=now(), after_round=round_, changes=changes)
        everything = (*self.info.resumptions, resumption)
        self._update(status="running", reason="", ended_at="", resumptions=everything)

    def _update(self, **changes: object) -> None:
        self.info = self.info.model_copy(update=changes)
        self._write_info()

    def _write_info(self) -> None:
        write_atomically(self.path / INFO, _json_bytes(self.info.model_dump(mode="json")))


def _json_bytes(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"


def _write_recipe(path: Path, recipe: Recipe) -> None:
    """As TOML for people, to edit and run again; as JSON for programs, and to open the run by."""
    write_atomically(path / RECIPE_TOML, dump(recipe).encode())
    write_atomically(path / RECIPE, recipe.model_dump_json(indent=2).encode() + b"\n")


def _read_recipe(path: Path) -> Recipe:
    try:
        return Recipe.model_validate_json((path / RECIPE).read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(
            f"{path / RECIPE} is missing, damaged or of another version of fedtune; restore it from a copy"
        ) from error


def _read_info(path: Path) -> RunInfo:
    try:
        return RunInfo.model_validate_json((path / INFO).read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(f"{path / INFO} is damaged or of another version of fedtune; restore it from a copy") from error


def _refuse_another_recipe(old: Recipe, new: Recipe, path: Path) -> None:
    """A resumed run may change its length, deadlines, logs and device, but not what is learned from which data."""
    may_change: dict[str, bool | set[str]] = {
        "federation": True,
        "training": {"device", "compile", "eval_batch_size"},
        "run": set(type(new.run).model_fields) - {"seed"},
    }
    before, after = old.model_dump(mode="json", exclude=may_change), new.model_dump(mode="json", exclude=may_change)
    changes = changed_values(before, after)
    if changes:
        listed = "; ".join(f"{key}: {change}" for key, change in changes.items())
        raise RunError(
            f"{path} was started with another recipe ({listed}); undo that to resume, or choose another run.name"
        )
