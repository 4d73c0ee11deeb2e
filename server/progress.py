"""What a person sees while a run goes on: a bar for the rounds, one for the clients of this round, a line a round."""

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedtune.runs.record import ClientRecord, RoundRecord, ScoreRecord
from fedtune.runs.virtual import outcome_words
from fedtune.runs.words import bytes_text, seconds_text
from server.listener import Listener

MOST_SAID = 5
"""Clients of a round whose replies were set aside that are named; a run of thousands would fill the terminal."""
PACE_OVER_S = 24 * 3600.0
"""How far back the bars look for their pace: a round may take an hour."""

_WORDS = {"train": "training", "evaluate": "evaluating", "gradient": "measuring gradients"}


class ProgressBars(Listener):
    """Two bars on a terminal; plain lines where the output is a file."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            speed_estimate_period=PACE_OVER_S,
        )
        self._rounds: TaskID | None = None
        self._clients: TaskID | None = None
        self._said = 0
        """Replies of this round that were set aside, and said."""
        self._last_round = 0
        self._pace_is_said = False
        self._asked = 1

    def __enter__(self) -> "ProgressBars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def connected(self, count: int, wanted: int) -> None:
        """Say who is there while the run waits."""
        if count < wanted:
            self._console.print(f"waiting for clients: {count} of {wanted} connected")

    def began(self, run: str, first_round: int, rounds: int) -> None:
        """Set up the bar of the rounds."""
        self._console.print(f"run {run[:8]}: round {first_round} to {rounds}")
        self._last_round = rounds
        self._rounds = self._bars.add_task("rounds", total=rounds, completed=max(0, first_round))

    def asked(self, round_: int, clients: int, what: str) -> None:
        """Set up the bar of this round's clients."""
        self._said = 0
        if self._clients is not None:
            self._bars.remove_task(self._clients)
        self._asked = max(clients, 1)
        self._clients = self._bars.add_task(f"  round {round_}, {_WORDS[what]}", total=clients)

    def replied(self, record: ClientRecord, what: str) -> None:
        """Move the bar; a reply that was set aside is said once a client and round, the first few of them."""
        if self._clients is not None:
            self._bars.advance(self._clients)
        if self._rounds is not None and what == "train":
            self._bars.advance(self._rounds, 1 / self._asked)
        if record.outcome in ("ok", "needs-factors", "not-needed"):
            return
        self._said += 1
        if self._said <= MOST_SAID:
            self._console.print(f"  {record.client}: {record.outcome} ({record.detail})", markup=False, soft_wrap=True)
        elif self._said == MOST_SAID + 1:
            self._console.print("  … and more; rounds.jsonl will have all of them", markup=False, soft_wrap=True)

    def finished(self, record: RoundRecord) -> None:
        """One line a round."""
        if self._rounds is not None:
            self._bars.update(self._rounds, completed=record.round)
        self._console.print(_line(record), highlight=False, soft_wrap=True)
        left = self._last_round - record.round
        if record.round and left > 0 and record.seconds is not None and not self._pace_is_said:
            self._pace_is_said = True
            self.noted(f"at this pace {left} more rounds take about {seconds_text(left * record.seconds)}")

    def noted(self, sentence: str) -> None:
        """Print it."""
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _line(record: RoundRecord) -> str:
    good = sum(client.outcome == "ok" for client in record.clients)
    parts = [f"round {record.round:>3}"]
    if record.round and not record.hides_clients:
        parts.append(f"{good}/{len(record.clients)} updates" + ("" if record.aggregated else " (too few: no change)"))
        if record.virtual is not None and (others := outcome_words(record)):
            parts.append(others)
        if (staleness := record.staleness()) is not None:
            parts.append(f"staleness {staleness:.1f}")
        parts.append(f"up {bytes_text(record.bytes_up())}")
    if record.train_loss is not None:
        parts.append(f"train loss {record.train_loss:.4f}")
    for name, score in (("test", record.central), ("clients' test", record.federated)):
        if score is not None:
            parts.append(_score(name, score))
    if record.seconds is not None:
        parts.append(seconds_text(record.seconds))
    if record.virtual is not None:
        parts.append(f"virtual {seconds_text(record.virtual.seconds)}, clock {seconds_text(record.virtual.clock_s)}")
    return "  ".join([*parts, "[bold]best[/bold]" if record.best else ""]).rstrip()


def _score(name: str, score: ScoreRecord) -> str:
    return f"{name} loss {score.loss:.4f}, accuracy {score.accuracy:.1%}"
