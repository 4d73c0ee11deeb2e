"""The picture of a study: accuracy by method and split, and under it the product error where it is known."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from fedtune.runs.axes import BLUE, GREEN, ORANGE, SOFT
from fedtune.runs.plots import STYLE
from fedtune.runs.words import percent_tick
from simulations.studies.plan import Plan
from simulations.studies.results import ROUNDING, Row

COLOURS = (BLUE, ORANGE, GREEN, SOFT)
FLOOR = 1e-9
"""The lowest product error that is drawn; an error of zero stands there too."""


def draw(plan: Plan, rows: Sequence[Row]) -> bytes:
    """PNG bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        has_errors = any(row.product_error_max is not None for row in rows)
        figure = Figure(figsize=(12, 8.5 if has_errors else 5.5), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        if has_errors:
            above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
            _draw_errors(below, plan, rows)
        else:
            above = below = figure.subplots()
        _draw_accuracy(above, plan, rows)
        below.set_xticks(range(len(plan.contenders)), list(plan.contenders), rotation=30, ha="right")
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_accuracy(axes: Any, plan: Plan, rows: Sequence[Row]) -> None:
    axes.set_title("Accuracy on the test rows, ± standard deviation; hatched: on the clients' own held-out rows")
    axes.yaxis.set_major_formatter(lambda share, _: percent_tick(share))
    for split, colour, shift, width in _splits(plan):
        for row in (row for row in rows if row.split == split):
            is_local = row.accuracy_mean is None
            mean = row.local_accuracy_mean if is_local else row.accuracy_mean
            std = row.local_accuracy_std if is_local else row.accuracy_std
            axes.bar(
                _place(plan, row) + shift, mean or 0.0, width, yerr=std, color="white" if is_local else colour,
                edgecolor=colour, hatch="///" if is_local else None, error_kw={"ecolor": SOFT, "elinewidth": 1.2},
            )  # fmt: skip
        axes.bar(0, 0, color=colour, label=split)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.12)
    axes.legend(loc="upper right", ncols=len(plan.splits), frameon=False)
    axes.grid(visible=False, axis="x")


def _draw_errors(axes: Any, plan: Plan, rows: Sequence[Row]) -> None:
    axes.set_title("Product error ‖ΔW − Σp·ΔWₖ‖ / ‖Σp·ΔWₖ‖, the largest of any round")
    axes.set_yscale("log")
    axes.axhline(ROUNDING, color=SOFT, linewidth=1, linestyle="--")
    axes.annotate("above this, more than rounding", (0, ROUNDING), (2, 4), xycoords=("axes fraction", "data"),
                  textcoords="offset points", color=SOFT, fontsize=9)  # fmt: skip
    for split, colour, shift, _ in _splits(plan):
        points = [
            (_place(plan, row) + shift, max(row.product_error_max, FLOOR))
            for row in rows
            if row.split == split and row.product_error_max is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=6)
    axes.set_ylim(FLOOR / 2, 10)
    axes.grid(visible=False, axis="x")


def _splits(plan: Plan) -> list[tuple[str, str, float, float]]:
    """(split, colour, shift along x, width of a bar), side by side around each method's place."""
    count = len(plan.splits)
    width = 0.8 / count
    return [
        (split, COLOURS[position % len(COLOURS)], (position - (count - 1) / 2) * width, width * 0.92)
        for position, split in enumerate(plan.splits)
    ]


def _place(plan: Plan, row: Row) -> int:
    return list(plan.contenders).index(row.method)
