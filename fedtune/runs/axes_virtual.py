"""The axes of runs on a virtual clock: scores over virtual time, and what became of the asked clients."""

import math
from collections.abc import Sequence
from typing import Any

from fedtune.runs.axes import BLUE, GREEN, ORANGE, SOFT
from fedtune.runs.end_table import score_name
from fedtune.runs.record import RoundRecord
from fedtune.runs.summary import Summary, perplexity, score_of
from fedtune.runs.words import percent_tick

_UNITS = ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_OTHER = "#9aa4af"
_COLOURS = {"ok": BLUE, "late": ORANGE, "unavailable": SOFT, "not-needed": GREEN}


def draw_over_time(axes: Any, records: Sequence[RoundRecord], summary: Summary) -> None:
    """The score of the global state against the virtual time at which it was there."""
    of_loss = summary.task == "causal-lm"
    points = [
        (record.virtual.clock_s, perplexity(score.loss) if of_loss else score.accuracy)
        for record in records
        if record.virtual is not None and (score := score_of(record, summary.where)) is not None
    ]
    points = [(moment, value) for moment, value in points if math.isfinite(value)]
    span, unit = _unit(max((moment for moment, _ in points), default=0.0))
    axes.set_title(f"{score_name(summary.task).capitalize()} over virtual time")
    axes.plot([moment / span for moment, _ in points], [value for _, value in points], color=BLUE, marker="o", ms=3.5)
    axes.set_xlabel(f"virtual {unit}")
    if not of_loss:
        axes.yaxis.set_major_formatter(lambda share, _: percent_tick(share))


def draw_outcomes(axes: Any, records: Sequence[RoundRecord], _summary: Summary) -> None:
    """How many of each round's asked clients counted, were late, went away, or were not needed."""
    axes.set_title("Asked clients")
    trained = [record for record in records if record.round > 0]
    names = sorted({c.outcome for r in trained for c in r.clients}, key=lambda name: (name != "ok", name))
    below = [0] * len(trained)
    for name in names:
        counts = [sum(c.outcome == name for c in r.clients) for r in trained]
        label = "counted" if name == "ok" else name
        axes.bar([r.round for r in trained], counts, bottom=below, label=label, color=_COLOURS.get(name, _OTHER))
        below = [low + count for low, count in zip(below, counts, strict=True)]
    axes.set_ylim(top=max(below, default=1) * 1.2)
    axes.set_xlabel("round")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper right", ncols=max(len(names), 1), frameon=False)


def _unit(seconds: float) -> tuple[float, str]:
    """The largest unit of which there are at least two."""
    return next(((span, unit) for span, unit in _UNITS if seconds >= 2 * span), _UNITS[-1])
