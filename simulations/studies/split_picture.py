"""The picture of the study of split learning: accuracy over bytes, and over the client's FLOPs beside it."""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

from fedtune.cli.split_table import count_text
from fedtune.runs.axes import BLUE, GREEN, ORANGE
from fedtune.runs.plots import STYLE
from fedtune.runs.words import bytes_text, percent_tick
from simulations.studies.split_rows import SplitRow
from simulations.studies.split_words import World

COLOURS = {"federated": BLUE, "splitfed": GREEN, "split": GREEN, "sfprompt": ORANGE}
"""By the first word of a contender's name."""


def draw_split(worlds: Sequence[World]) -> bytes:
    """PNG bytes, one line of axes a world; contenders that never came to an end are not in it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 5.2 * len(worlds)), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(worlds), 2, sharey="row", squeeze=False)
        for world, (left, right) in zip(worlds, grid, strict=True):
            _draw(left, world.rows, lambda row: row.both, bytes_text)
            _draw(right, world.rows, lambda row: row.flops, count_text)
            left.set_title(f"{world.name}: test accuracy over a client's bytes a round, both ways")
            right.set_title("over its FLOPs a round")
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw(
    axes: Any, rows: Sequence[SplitRow], place: Callable[[SplitRow], float | None], text: Callable[[float], str]
) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda count, _: text(count))
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(lambda share, _: percent_tick(share))
    axes.margins(x=0.2)
    for row in rows:
        where = place(row)
        if not where or row.accuracy_mean is None:
            continue
        colour = COLOURS.get(row.contender.partition("-")[0], BLUE)
        axes.errorbar(
            where, row.accuracy_mean, yerr=row.accuracy_std, fmt="o", markersize=6, color=colour, elinewidth=0.8
        )
        axes.annotate(
            row.contender, (where, row.accuracy_mean), (6, 4), textcoords="offset points", fontsize=8, color=colour
        )
