"""The table at the end of a run, in the terminal."""

from rich.table import Table

from fedtune.runs.record import ScoreRecord
from fedtune.runs.summary import Spread, Summary, perplexity
from fedtune.runs.virtual import virtual_words
from fedtune.runs.words import bytes_text, number_text, percent_text, seconds_text

HIDDEN = "not written down: they tell how many clients were drawn, and privacy counts on nobody knowing"
"""In the place of clients, traffic and times, where noise at the coordinator hides who was drawn."""


def render(summary: Summary) -> Table:
    """Scores before and after, bytes per client each way, seconds, rounds and what was left out."""
    table = Table(title=f"{summary.name}: {summary.status}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for row in rows(summary):
        table.add_row(*row)
    return table


def rows(summary: Summary) -> list[tuple[str, str]]:
    """The table's rows as (what, how much)."""
    return [
        *_score_rows(summary),
        ("rounds", _rounds(summary)),
        *_work(summary),
    ]


def score_words(summary: Summary) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """(score, loss) as texts, before and after: accuracy, or perplexity for `causal-lm`; None without any score."""
    if summary.after is None:
        return None
    return _words(summary.before, summary.task), _words(summary.after, summary.task)


def score_name(task: str) -> str:
    """The word for the first score of a task."""
    return "perplexity" if task == "causal-lm" else "accuracy"


def _words(score: ScoreRecord | None, task: str) -> tuple[str, str]:
    if score is None:
        return "–", "–"
    main = number_text(perplexity(score.loss)) if task == "causal-lm" else percent_text(score.accuracy)
    return main, number_text(score.loss)


def _score_rows(summary: Summary) -> list[tuple[str, str]]:
    words = score_words(summary)
    if words is None:
        return [("score", "not evaluated")]
    (main_before, loss_before), (main_after, loss_after) = words
    where = "central test set" if summary.where == "central" else "clients' held-out rows"
    best = (
        "" if summary.best is None else f"  (best: {_words(summary.best, summary.task)[0]}, round {summary.best_round})"
    )
    return [
        (score_name(summary.task), f"{main_before} → {main_after}{best}"),
        ("loss", f"{loss_before} → {loss_after}"),
        ("measured on", where),
    ]


def _work(summary: Summary) -> list[tuple[str, str]]:
    if summary.hides_clients:
        return [("clients, traffic, time", HIDDEN)]
    return [
        ("clients", f"{summary.clients:,}"),
        ("sent to a client", _per_client(summary.down_per_client, summary.bytes_down)),
        ("sent by a client", _per_client(summary.up_per_client, summary.bytes_up)),
        ("time", seconds_text(summary.seconds)),
        *([("virtual time", virtual_words(summary.virtual))] if summary.virtual else []),
        *_left_out(summary),
    ]


def _rounds(summary: Summary) -> str:
    without = summary.rounds_without_change
    return f"{summary.rounds}" + (f" ({without} without enough updates)" if without else "")


def _per_client(spread: Spread, total: int) -> str:
    return f"{bytes_text(spread.median)} (median; all clients {bytes_text(total)})"


def _left_out(summary: Summary) -> list[tuple[str, str]]:
    others = [f"{count} × {name}" for name, count in summary.outcomes.items() if name != "ok"]
    return [("updates left out", ", ".join(others))] if others else []
