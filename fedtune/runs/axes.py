"""One drawing function an axes of the PNGs: colour-blind-safe, lines named where they end, units on every axis."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from fedtune.runs.end_table import score_name
from fedtune.runs.page.scale import round_ticks
from fedtune.runs.record import RoundRecord, ScoreRecord
from fedtune.runs.summary import Summary, perplexity
from fedtune.runs.words import bytes_text, number_text, percent_text, percent_tick

BLUE, ORANGE, GREEN, SOFT = "#0072b2", "#c85200", "#00805d", "#56616d"

Values = Mapping[int, float]


def draw_accuracy(axes: Any, records: Sequence[RoundRecord], summary: Summary) -> None:
    """Accuracy, or perplexity for `causal-lm`, of the global state."""
    of_loss = summary.task == "causal-lm"

    def value(score: ScoreRecord) -> float:
        return perplexity(score.loss) if of_loss else score.accuracy

    axes.set_title(f"{score_name(summary.task).capitalize()} of the global state")
    if not of_loss:
        axes.yaxis.set_major_formatter(lambda share, _: percent_tick(share))
    _draw_scores(axes, records, value, number_text if of_loss else percent_text)


def draw_loss(axes: Any, records: Sequence[RoundRecord], _summary: Summary) -> None:
    """Mean losses of the global state, and of the clients while they train."""
    axes.set_title("Mean loss")
    trained = {r.round: r.train_loss for r in records if r.train_loss is not None}
    _draw_scores(axes, records, lambda score: score.loss, number_text, {"training": (GREEN, trained)})


def draw_traffic(axes: Any, records: Sequence[RoundRecord], _summary: Summary) -> None:
    """Bytes of each round, both ways."""
    axes.set_title("Traffic of a round")
    if _is_silent(axes, records):
        return
    _in_bytes(axes)
    for shift, colour, label, values in _ways(records):
        axes.bar([r.round + shift for r in records], values, width=0.38, color=colour, label=label)
    _legend_above(axes)
    _rounds(axes)


def draw_cumulative(axes: Any, records: Sequence[RoundRecord], _summary: Summary) -> None:
    """Bytes since the start, both ways."""
    axes.set_title("Traffic since the start")
    if _is_silent(axes, records):
        return
    _in_bytes(axes)
    lines = {}
    for _, colour, label, values in _ways(records):
        lines[label] = (colour, dict(zip([r.round for r in records], accumulate(values), strict=True)))
    _draw_lines(axes, lines, bytes_text)


def draw_clients(axes: Any, records: Sequence[RoundRecord], _summary: Summary) -> None:
    """How far apart the clients' training losses are."""
    axes.set_title("Clients' training loss: median, middle half, all")
    losses = {r.round: [c.loss for c in r.clients if c.loss is not None and math.isfinite(c.loss)] for r in records}
    losses = {round_: values for round_, values in losses.items() if values}
    if not losses:
        _say_nothing(axes, "no client reported a loss")
        return
    axes.boxplot(
        list(losses.values()),
        positions=list(losses),
        widths=0.6,
        whis=(0, 100),
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": "#a9cde6", "edgecolor": "none"},
        medianprops={"color": BLUE, "linewidth": 2.2},
        whiskerprops={"color": "#8a96a3"},
        showcaps=False,
    )
    _rounds(axes)


def draw_examples(axes: Any, records: Sequence[RoundRecord], _summary: Summary) -> None:
    """How many examples each client holds, largest first."""
    axes.set_title("Examples a client")
    held = {c.client: c.examples for r in records for c in r.clients if c.outcome == "ok"}
    if not held:
        _say_nothing(axes, "no client sent an update")
        return
    sizes = sorted(held.values(), reverse=True)
    axes.bar(range(1, len(sizes) + 1), sizes, width=1.0, color=BLUE, edgecolor="white", linewidth=0.3)
    middle = statistics.median(sizes)
    axes.axhline(middle, color=ORANGE, linewidth=1.6)
    axes.annotate(
        f"median {middle:,.0f}", (1, middle), (0, 4), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", color=ORANGE, fontweight="bold",
    )  # fmt: skip
    axes.set_xlabel("clients, by size")
    axes.set_ylabel("rows")
    axes.yaxis.get_major_locator().set_params(integer=True)


def _draw_scores(
    axes: Any,
    records: Sequence[RoundRecord],
    value: Callable[[ScoreRecord], float],
    text: Callable[[float], str],
    more: Mapping[str, tuple[str, Values]] | None = None,
) -> None:
    central = {r.round: value(r.central) for r in records if r.central}
    federated = {r.round: value(r.federated) for r in records if r.federated}
    _draw_lines(axes, {"central": (BLUE, central), "federated": (ORANGE, federated), **(more or {})}, text)


def _draw_lines(axes: Any, lines: Mapping[str, tuple[str, Values]], text: Callable[[float], str]) -> None:
    ends = []
    for label, (colour, values) in lines.items():
        finite = {r: v for r, v in sorted(values.items()) if math.isfinite(v)}
        if finite:
            marker = "o" if len(finite) <= 60 else ""
            axes.plot(list(finite), list(finite.values()), color=colour, marker=marker, markersize=3.5, linewidth=2)
            ends.append((finite[max(finite)], max(finite), label, colour))
    if not ends:
        _say_nothing(axes, "nothing was measured")
        return
    _rounds(axes)
    _make_room(axes, [round_ for _, values in lines.values() for round_ in values])
    _name_ends(axes, ends, text)


def _make_room(axes: Any, rounds: Sequence[int]) -> None:
    """Widen x so that the names stand inside the axes, and all axes of a picture stay equally wide."""
    first, last = min(rounds), max(rounds)
    span = max(last - first, 1)
    axes.set_xlim(first - span * 0.04, last + span * 0.5)
    axes.set_xticks(round_ticks(first, last, wanted=6))


def _name_ends(axes: Any, ends: list[tuple[float, int, str, str]], text: Callable[[float], str]) -> None:
    """Write each line's name and last value beside its end, moved apart where two would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.065
    below = -math.inf
    for value, round_, label, colour in sorted(ends):
        place = max(value, below + gap)
        below = place
        axes.annotate(
            f"{label} {text(value)}", (round_, place), (8, 0), textcoords="offset points", va="center", color=colour,
            fontweight="bold", fontsize=10, annotation_clip=False,
        )  # fmt: skip


def _is_silent(axes: Any, records: Sequence[RoundRecord]) -> bool:
    """Is there no traffic to draw, because it would tell how many clients were drawn? Then the axes say so."""
    hidden = any(r.hides_clients for r in records)
    if hidden:
        _say_nothing(axes, "not written down: it tells how many clients were drawn")
    return hidden


def _ways(records: Sequence[RoundRecord]) -> list[tuple[float, str, str, list[int]]]:
    return [
        (-0.2, BLUE, "to clients", [r.bytes_down() for r in records]),
        (0.2, ORANGE, "from clients", [r.bytes_up() for r in records]),
    ]


def _in_bytes(axes: Any) -> None:
    axes.yaxis.set_major_formatter(lambda count, _: bytes_text(max(count, 0)))


def _rounds(axes: Any) -> None:
    """Whole numbers along x, which for a run of one round matplotlib would not choose."""
    axes.set_xlabel("round")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="x")


def _legend_above(axes: Any) -> None:
    axes.set_ylim(top=axes.get_ylim()[1] * 1.15)
    axes.legend(loc="upper right", ncols=2, frameon=False, borderaxespad=0, handlelength=1)


def _say_nothing(axes: Any, why: str) -> None:
    axes.set_axis_off()
    axes.text(0, 0.5, why, transform=axes.transAxes, color=SOFT)
