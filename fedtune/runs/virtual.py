"""Runs on a virtual clock: how much of its time they took, and when a score was first reached."""

from collections.abc import Sequence

from fedtune.runs.record import RoundRecord
from fedtune.runs.summary import VirtualSummary, evaluated_where, score_of
from fedtune.runs.words import seconds_text


def time_to_accuracy(records: Sequence[RoundRecord], accuracy: float) -> float | None:
    """Virtual seconds from the start to the end of the first round whose evaluated state has at least `accuracy`.

    None where no state has, or no virtual clock ran.
    """
    where = evaluated_where(records)
    for record in records:
        score = score_of(record, where)
        if record.virtual is not None and score is not None and score.accuracy >= accuracy:
            return record.virtual.clock_s
    return None


def virtual_words(virtual: VirtualSummary) -> str:
    """Its virtual time for a person: `8 h 03 min in all, 24 min 10 s a round (median), best score after 6 h 00 min`."""
    parts = [f"{seconds_text(virtual.clock_s)} in all", f"{seconds_text(virtual.round_s)} a round (median)"]
    if virtual.best_s is not None:
        parts.append(f"best score after {seconds_text(virtual.best_s)}")
    return ", ".join(parts)


def outcome_words(record: RoundRecord) -> str:
    """What became of the clients that did not count: `4 late, 2 unavailable`; "" where all did."""
    counts: dict[str, int] = {}
    for client in record.clients:
        if client.outcome != "ok":
            counts[client.outcome] = counts.get(client.outcome, 0) + 1
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
