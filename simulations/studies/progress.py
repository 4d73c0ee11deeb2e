"""What a person sees while a study goes on: a bar over its simulations, and a line each."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from fedtune.runs.words import percent_text, seconds_text
from simulations.studies.outcome import Outcome


class Progress:
    """A bar on a terminal; plain lines where the output is a file."""

    def __init__(self, cells: int, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._bar = Bar(
            TextColumn("simulations"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._cells: TaskID = self._bar.add_task("simulations", total=cells)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def told(self, outcome: Outcome, done: int, of: int) -> None:
        """Move the bar and say what one simulation came to."""
        self._bar.update(self._cells, completed=done, total=of)
        self._console.print(f"{done}/{of}  {line(outcome)}", highlight=False, markup=False, soft_wrap=True)


def line(outcome: Outcome) -> str:
    """One simulation in one line."""
    cell = outcome.cell
    what = f"{cell.stage} {cell.method}, {cell.split}, seed {cell.seed}, rate {cell.lr:g}: "
    if outcome.failure:
        return what + f"failed: {outcome.failure}"
    score = outcome.local_accuracy if outcome.accuracy is None else outcome.accuracy
    error = f", product error {max(outcome.product_errors):.1e}" if outcome.product_errors else ""
    lost = f", {outcome.left_out} updates left out" if outcome.left_out else ""
    return what + f"{percent_text(score or 0.0)}{error}{lost}, {seconds_text(outcome.seconds)}"
