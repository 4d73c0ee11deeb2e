"""Fedtune's simulator, the whole way: tasks, updates, checks, exact mean, checkpoint, record."""

from pathlib import Path

from benchmarks.simulators.case import Case
from benchmarks.simulators.measure import Mark, Measured, mark, peak_mb, plain
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import RoundRecord
from server.listener import Listener
from simulations.simulate import simulate


def run(case: Case, folder: Path) -> Measured:
    """One run of the recipe on one worker."""
    marks: list[Mark] = []

    class Marks(Listener):
        def began(self, run: str, first_round: int, rounds: int) -> None:
            marks.append(mark())

        def finished(self, record: RoundRecord) -> None:
            if record.round:  # the start is recorded too
                marks.append(mark())
            if failed := [client.detail for client in record.clients if client.outcome != "ok"]:
                raise SystemExit(f"fedtune: {len(failed)} clients failed, the first because {failed[0]}")

    path = simulate(case.recipe(folder), listener=Marks(), workers=1)
    checkpoint = RunFolder.open(path).rewind()
    state = {} if checkpoint is None or case.private else dict(checkpoint.state)
    return Measured(tuple(marks), plain(state), peak_mb())
