"""The PNGs of a run: learning, traffic, clients, and one picture of all three."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from fedtune.runs.atomic import storage_errors, write_atomically
from fedtune.runs.axes import draw_accuracy, draw_clients, draw_cumulative, draw_examples, draw_loss, draw_traffic
from fedtune.runs.axes_virtual import draw_outcomes, draw_over_time
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import RoundRecord
from fedtune.runs.summary import Summary, summarise_rounds

Draw = Callable[[Any, Sequence[RoundRecord], Summary], None]

PICTURES: dict[str, tuple[tuple[Draw, ...], ...]] = {
    "learning.png": ((draw_accuracy, draw_loss),),
    "traffic.png": ((draw_traffic, draw_cumulative),),
    "clients.png": ((draw_clients, draw_examples),),
    "summary.png": ((draw_accuracy, draw_loss), (draw_clients, draw_traffic)),
}
"""Each picture's axes, row by row."""
VIRTUAL_PICTURES: dict[str, tuple[tuple[Draw, ...], ...]] = {"time.png": ((draw_over_time, draw_outcomes),)}
"""Those that a run on a virtual clock has beside."""

STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "axes.edgecolor": "#9aa4af",
    "text.color": "#1a1f26",
    "axes.labelcolor": "#56616d",
    "xtick.color": "#56616d",
    "ytick.color": "#56616d",
}


def draw_plots(folder: RunFolder) -> dict[str, Path]:
    """Draw every picture of a run into its `plots/`, and return their paths by file name.

    Raises RunError where the run's rounds are damaged or the disk does not take a picture.
    """
    records = folder.rounds()
    summary = summarise_rounds(records, name=folder.info.name, status=folder.status, task=folder.recipe.model.task)
    with storage_errors(folder.plots_path):
        folder.plots_path.mkdir(exist_ok=True)
    names = [*PICTURES, *(VIRTUAL_PICTURES if summary.virtual is not None else ())]
    paths = {name: folder.plots_path / name for name in names}
    for name, path in paths.items():
        write_atomically(path, draw_picture(name, records, summary))
    return paths


def draw_picture(name: str, records: Sequence[RoundRecord], summary: Summary) -> bytes:
    """One of `PICTURES` or `VIRTUAL_PICTURES` as PNG bytes."""
    # Matplotlib takes most of a second to import, and its pyplot would keep state and look for a display.
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    grid = (PICTURES | VIRTUAL_PICTURES)[name]
    engine = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4 * len(grid) + 0.4), dpi=130, layout=engine)
        FigureCanvasAgg(figure)
        figure.suptitle(_title(summary), x=0.01, ha="left", fontsize=14, fontweight="bold")
        for axes_row, draws in zip(figure.subplots(len(grid), len(grid[0]), squeeze=False), grid, strict=True):
            for axes, draw in zip(axes_row, draws, strict=True):
                draw(axes, records, summary)
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _title(summary: Summary) -> str:
    clients = "" if summary.hides_clients else f", {summary.clients:,} clients"
    return f"{summary.name}: {summary.rounds} rounds{clients}"
