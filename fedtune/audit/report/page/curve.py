"""The ε(δ) curve as a chart: places for the template to draw, δ along x by powers of ten."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedtune.audit.report.words import delta_text, epsilon_text
from fedtune.runs.page.chart import Dot, Tick
from fedtune.runs.page.scale import Scale, nice_range
from fedtune.runs.words import plain_tick

WIDTH, HEIGHT = 600, 330
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 14, 46
LABEL_WIDTH = 160


@dataclass(frozen=True, slots=True)
class CurveChart:
    """The curve, ready to be written as SVG."""

    box: tuple[int, int, int, int]
    """left, top, right, bottom of the plot."""
    path: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    mark: Dot
    """The (ε, δ) that the report is about."""
    label: Dot
    """Its text, above the curve."""
    description: str


def curve_chart(curve: Sequence[tuple[float, float | None]], delta: float, epsilon: float | None) -> CurveChart | None:
    """The chart of (δ, ε) pairs with the report's own pair marked; None where there is no finite ε to draw."""
    points = [(math.log10(d), e) for d, e in sorted(curve) if e is not None]
    if len(points) < 2 or epsilon is None:
        return None
    low, high = points[0][0], points[-1][0]
    bottom, top, ticks = nice_range([e for _, e in points], from_zero=True)
    x, y = Scale(low, high, LEFT, WIDTH - RIGHT), Scale(bottom, top, HEIGHT - BOTTOM, TOP)
    mark = Dot(x(math.log10(delta)), y(epsilon), "orange")
    start = min(mark.x + 10, WIDTH - RIGHT - LABEL_WIDTH)
    # The curve falls: what stands above it where the text begins stands above it everywhere.
    above = min(mark.y, *(y(b) for a, b in points if x(a) >= start - 20))
    powers = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    return CurveChart(
        box=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        path=" ".join(f"{'L' if i else 'M'}{x(a):g} {y(b):g}" for i, (a, b) in enumerate(points)),
        x_ticks=tuple(Tick(x(power), f"1e{power}") for power in powers),
        y_ticks=tuple(Tick(y(tick), plain_tick(tick)) for tick in ticks),
        mark=mark,
        label=Dot(start, above - 12, "orange", f"ε = {epsilon_text(epsilon)} at δ = {delta_text(delta)}"),
        description=(
            f"ε against δ: from {epsilon_text(points[0][1])} at δ = {delta_text(10**low)} down to "
            f"{epsilon_text(points[-1][1])} at δ = {delta_text(10**high)}; this report's δ is {delta_text(delta)}, "
            f"with ε = {epsilon_text(epsilon)}."
        ),
    )
