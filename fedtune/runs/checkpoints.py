"""The checkpoints of a run: the newest few and the best one, with a way back when the newest is damaged."""

import logging
import re
import shutil
from contextlib import suppress
from pathlib import Path

from fedtune.errors import RunError
from fedtune.runs.atomic import TEMPORARY_PREFIX, storage_errors, write_atomically
from fedtune.runs.checkpoint import Checkpoint, load_checkpoint, read_header, remove_folder, save_checkpoint

logger = logging.getLogger(__name__)

_ADVICE = {
    "latest": "let the run finish its first round",
    "best": "no round of it was evaluated, so use --checkpoint latest",
}
_NAME = re.compile(r"round-(\d{6,})")


class CheckpointStore:
    """`checkpoints/round-000003`, … and the pointers `latest` and `best`, small files that hold a folder's name.

    The folders are the truth: the pointers are for people and scripts, and are set right by `mend` after a crash.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, point to it, and prune; raises RunError, earlier checkpoints intact, on a full disk."""
        rounds = self.rounds()
        like = self.path_of(rounds[-1]) if rounds else None
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(checkpoint, self.path_of(checkpoint.round), like=like)
        self._point()
        self._prune()

    def rounds(self) -> tuple[int, ...]:
        """The rounds that have a checkpoint, ascending; they are not verified here."""
        if not self.folder.is_dir():
            return ()
        matches = (_NAME.fullmatch(entry.name) for entry in self.folder.iterdir())
        return tuple(sorted(int(match[1]) for match in matches if match))

    def path_of(self, round_: int) -> Path:
        """The folder of a round's checkpoint, whether or not it exists."""
        return self.folder / f"round-{round_:06d}"

    def latest(self) -> Checkpoint | None:
        """The newest sound checkpoint; a damaged one is passed over with a warning. None where no round has one.

        Raises RunError where there are checkpoints and all of them are damaged.
        """
        rounds = self.rounds()
        for round_ in reversed(rounds):
            try:
                return load_checkpoint(self.path_of(round_))
            except RunError as error:
                logger.warning("%s: going back to the one before", error)
        if rounds:
            raise RunError(f"every checkpoint in {self.folder} is damaged; start the run anew under another run.name")
        return None

    def best(self) -> Checkpoint | None:
        """The checkpoint of the best evaluated round; None where none was evaluated. RunError where it is damaged."""
        round_ = self._best_round()
        return None if round_ is None else load_checkpoint(self.path_of(round_))

    def load(self, which: str) -> Checkpoint:
        """`best`, `latest` or a round's number; RunError says which there are."""
        named = {"latest": self.latest, "best": self.best}
        if which in named:
            found = named[which]()
            if found is None:
                raise RunError(f"{self.folder.parent} has no {which} checkpoint; {_ADVICE[which]}")
            return found
        if not which.isdecimal() or int(which) not in self.rounds():
            known = ", ".join(str(r) for r in self.rounds()) or "none"
            raise RunError(
                f"there is no checkpoint {which!r} in {self.folder.parent}; choose best, latest or a round: {known}"
            )
        return load_checkpoint(self.path_of(int(which)))

    def truncate_after(self, round_: int) -> None:
        """Delete the checkpoints of later rounds."""
        for later in self.rounds():
            if later > round_:
                _delete(self.path_of(later))
        self.mend()

    def mend(self) -> None:
        """Clear what a crash left half done: unfinished folders go, pointers are set right."""
        if not self.folder.is_dir():
            return
        for leftover in self.folder.glob(TEMPORARY_PREFIX + "*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self._point()
        self._prune()

    def _best_round(self) -> int | None:
        for round_ in reversed(self.rounds()):
            # An unreadable header cannot say whether it was the best; `latest` warns about it.
            with suppress(RunError):
                if read_header(self.path_of(round_))["best"]:
                    return round_
        return None

    def _point(self) -> None:
        rounds = self.rounds()
        targets = {"latest": rounds[-1] if rounds else None, "best": self._best_round()}
        for name, round_ in targets.items():
            pointer = self.folder / name
            wanted = b"" if round_ is None else f"round-{round_:06d}\n".encode()
            current = pointer.read_bytes() if pointer.is_file() else b""
            if wanted and wanted != current:
                write_atomically(pointer, wanted)
            elif current and not wanted:
                _delete(pointer)

    def _prune(self) -> None:
        rounds = self.rounds()
        spared = {*rounds[-self.keep :], self._best_round()}
        for round_ in rounds:
            if round_ not in spared:
                _delete(self.path_of(round_))


def _delete(path: Path) -> None:
    with storage_errors(path):
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink()
