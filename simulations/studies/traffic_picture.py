"""The picture of a study of traffic: accuracy over a logarithmic axis of upload bytes, with the Pareto front."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from fedtune.runs.axes import BLUE, GREEN, ORANGE, SOFT
from fedtune.runs.plots import STYLE
from fedtune.runs.words import bytes_text, percent_tick
from simulations.studies.traffic import BELOW, Traffic

Point = tuple[Traffic, float, float]
"""A contender, the bytes that it sends, and its accuracy."""

COLOURS = (BLUE, ORANGE, GREEN)
GOAL = 1000
"""So many times fewer bytes than the baseline."""


def draw_traffic(rows: Sequence[Traffic], baseline: str) -> bytes:
    """PNG bytes; contenders that never came to an end are not in it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 7.5), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set_title("Accuracy on the test rows, ± standard deviation, over the bytes that a client sends in a round")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda count, _: bytes_text(count))
        axes.yaxis.set_major_formatter(lambda share, _: percent_tick(share))
        points = [
            (row, row.bytes_up, row.accuracy_mean) for row in rows if row.bytes_up and row.accuracy_mean is not None
        ]
        _draw_goal(axes, points, baseline)
        _draw_front(axes, points)
        _draw_points(axes, points)
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_goal(axes: Any, points: Sequence[Point], baseline: str) -> None:
    """The corner that the goal asks for: to the left of one line and above the other."""
    for _, sent, accuracy in (point for point in points if point[0].contender == baseline):
        for line, place in ((axes.axvline, sent / GOAL), (axes.axhline, accuracy - BELOW)):
            line(place, color=SOFT, linewidth=1, linestyle="--", zorder=0)
        axes.annotate(f"{GOAL:,} times fewer", (sent / GOAL, 0), (-4, 6), ha="right", color=SOFT, fontsize=9,
                      xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip
        axes.annotate(f"{baseline} less a point", (1, accuracy - BELOW), (0, -12), ha="right", color=SOFT,
                      xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=9)  # fmt: skip


def _draw_front(axes: Any, points: Sequence[Point]) -> None:
    front = sorted((sent, accuracy) for row, sent, accuracy in points if row.on_front)
    if front:
        axes.step(*zip(*front, strict=True), where="post", color=SOFT, linewidth=1.4, label="Pareto front")


def _draw_points(axes: Any, points: Sequence[Point]) -> None:
    methods = list(dict.fromkeys(row.method for row, _, _ in points))
    for row, sent, accuracy in points:
        colour = COLOURS[methods.index(row.method) % len(COLOURS)]
        axes.errorbar(
            sent, accuracy, yerr=row.accuracy_std, fmt="o", markersize=8 if row.on_front else 6, color=colour,
            markerfacecolor=colour if row.on_front else "white", elinewidth=0.8, alpha=0.9,
        )  # fmt: skip
        label = row.contender.removeprefix(f"{row.method}-").replace("-", " ")
        axes.annotate(label, (sent, accuracy), (6, 4), textcoords="offset points", fontsize=8, color=colour)
    for position, method in enumerate(methods):
        axes.plot([], [], "o", color=COLOURS[position % len(COLOURS)], label=method)
    axes.legend(loc="lower right", frameon=False)
