"""The picture of the audit of a split: what is recovered by depth, a line an audit, beside its guess."""

from collections.abc import Sequence
from io import BytesIO

from fedtune.runs.axes import BLUE, GREEN, ORANGE, SOFT
from fedtune.runs.plots import STYLE
from fedtune.runs.words import percent_tick
from simulations.audit.split.result import SplitAudit

COLOURS = (BLUE, ORANGE, GREEN)


def draw(audits: Sequence[SplitAudit]) -> bytes:
    """PNG bytes: the strongest attack at each depth, with three standard errors."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.5), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for position, audit in enumerate(audits):
            depths = sorted({leak.head_layers for leak in audit.leaks})
            best = [audit.strongest(depth) for depth in depths]
            colour = COLOURS[position % len(COLOURS)]
            axes.errorbar(
                depths, [leak.recovered for leak in best], [3 * leak.error for leak in best], marker="o", color=colour,
                label=f"{audit.model} on {audit.source}: {audit.measure}",
            )  # fmt: skip
            axes.plot(depths, [leak.guess for leak in best], linestyle="--", color=colour, linewidth=1)
        axes.set_title("What the coordinator recovers behind so many layers; dashed: a guess")
        axes.set_xlabel("split.head_layers", color=SOFT)
        axes.yaxis.set_major_formatter(lambda share, _: percent_tick(share))
        axes.set_ylim(-0.05, 1.05)
        axes.legend(frameon=False)
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
