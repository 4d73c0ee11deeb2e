"""What one cell of a study came to, and the journal that keeps every outcome."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedtune.errors import RunError
from fedtune.runs.atomic import storage_errors, write_atomically
from simulations.studies.plan import Cell, Plan

JOURNAL, PLAN = "cells.jsonl", "plan.json"


class Outcome(BaseModel):
    """The figures of one simulation."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    cell: Cell
    accuracy: float | None = None
    """After the last round, on the test rows; None where there is no global state to score."""
    local_accuracy: float | None = None
    """After the last round, on the rows that the clients hold out, summed over clients."""
    local_loss: float | None = None
    accuracy_before: float | None = None
    """Of the start, on the test rows."""
    curve: tuple[tuple[int, float], ...] = ()
    """Accuracy on the test rows by round, of the rounds after which they were scored."""
    product_errors: tuple[float, ...] = ()
    """By round; empty where it is not known."""
    bytes_up: float = 0.0
    """A client's upload in a round, mean over clients and rounds."""
    bytes_down: float = 0.0
    body_up: float = 0.0
    """Beside them what went to a split model's body, and came from it."""
    body_down: float = 0.0
    left_out: int = 0
    """Updates that were asked for and did not count."""
    seconds: float = 0.0
    failure: str = ""
    """One sentence where the simulation came to no end."""


class Journal:
    """`cells.jsonl`: one line an outcome.

    Guarantees: the file is replaced whole, so that a line is there or not; a last line that something else tore is
    dropped, and its cell is simulated again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes = _read(path)

    @classmethod
    def open(cls, folder: Path, plan: Plan, *, resume: bool) -> "Journal":
        """The journal of `plan` in `folder`, a new one or, with `resume`, one that is there; raises RunError."""
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        kept = folder / PLAN
        if not kept.exists():
            write_atomically(kept, plan.model_dump_json(indent=1).encode())
        elif Plan.model_validate_json(kept.read_bytes()) != plan:
            raise RunError(f"{folder} holds another study than this one; choose another --to")
        elif not resume:
            raise RunError(f"{folder} holds this study already; go on with it by --resume, or choose another --to")
        return cls(folder / JOURNAL)

    def add(self, outcome: Outcome) -> None:
        """Keep one more; raises RunError where the disk does not take it."""
        self.outcomes[outcome.cell] = outcome
        lines = (kept.model_dump_json() + "\n" for kept in self.outcomes.values())
        write_atomically(self.path, "".join(lines).encode())


def _read(path: Path) -> dict[Cell, Outcome]:
    """By cell, in the order of the file; raises RunError where another line than the last is damaged."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    found: dict[Cell, Outcome] = {}
    for number, line in enumerate(lines, start=1):
        try:
            outcome = Outcome.model_validate(json.loads(line))
        except (ValueError, ValidationError) as error:
            if number == len(lines):
                break
            raise RunError(f"line {number} of {path} is damaged; take the line out, and it is done again") from error
        found[outcome.cell] = outcome
    return found
