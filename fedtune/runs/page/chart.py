"""What is drawn on one chart: plain shapes with places, for the template to write as SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedtune.runs.page.scale import Scale, nice_range, round_ticks

WIDTH, HEIGHT = 600, 290
LEFT, RIGHT, TOP, BOTTOM = 62, 8, 14, 42
LABEL_ROOM = 84
"""What the plot gives up on its right where lines are named there."""
_LABEL_GAP = 16


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a value a round; rounds without one are left out and the line goes on over them."""

    label: str
    tone: str
    """The name of a colour in the style sheet."""
    values: Mapping[int, float]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis."""

    place: float
    text: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A rectangle, or where `path` is given a line."""

    tone: str
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    path: str = ""
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Dot:
    """A marked value."""

    x: float
    y: float
    tone: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Hover:
    """The column of one round, with the text that is shown when the pointer is over it."""

    x: float
    width: float
    centre: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart, ready to be written as SVG."""

    title: str
    description: str
    """One or two sentences that say what the picture shows, for those who do not see it."""
    y_ticks: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]
    shapes: tuple[Shape, ...]
    labels: tuple[Dot, ...]
    """The names of the lines beside their ends."""
    hovers: tuple[Hover, ...]
    dots: tuple[Dot, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    """(tone, text) for charts without lines."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """left, top, right, bottom of the plot."""
        return LEFT, TOP, WIDTH - RIGHT - (LABEL_ROOM if self.labels else 0), HEIGHT - BOTTOM


class Canvas:
    """The axes of one chart: rounds along x, one quantity along y."""

    def __init__(
        self,
        rounds: Sequence[int],
        values: Sequence[float],
        *,
        from_zero: bool,
        tick: Callable[[float], str],
        label_room: bool = False,
    ) -> None:
        low, high, ticks = nice_range(values, from_zero=from_zero)
        first, last = rounds[0], rounds[-1]
        self.right = WIDTH - RIGHT - (LABEL_ROOM if label_room else 0)
        self.step = (self.right - LEFT) / (last - first + 1)
        self.x = Scale(first - 0.5, last + 0.5, LEFT, self.right)
        self.y = Scale(low, high, HEIGHT - BOTTOM, TOP)
        self.y_ticks = tuple(Tick(self.y(t), tick(t)) for t in ticks)
        self.x_ticks = tuple(Tick(self.x(t), str(t)) for t in round_ticks(first, last))

    def line(self, series: Series) -> Shape:
        """The line of a series."""
        points = [(self.x(r), self.y(v)) for r, v in sorted(series.values.items()) if math.isfinite(v)]
        path = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
        return Shape(series.tone, path=path, dashed=series.dashed)

    def points(self, series: Series) -> list[Dot]:
        """A dot for each value; none where there are too many to tell apart."""
        if len(series.values) > 60:
            return []
        return [Dot(self.x(r), self.y(v), series.tone) for r, v in series.values.items() if math.isfinite(v)]

    def bar(
        self,
        round_: int,
        low: float,
        high: float,
        tone: str,
        *,
        share: float,
        shift: float = 0.0,
        least: float = 0.8,
    ) -> Shape:
        """A bar from `low` to `high`, `share` of a round's column wide and `shift` columns beside its middle.

        It is `least` high, so that small values are still seen.
        """
        column = min(self.step, 44)
        width = max(0.6, column * share)
        top, bottom = self.y(high), self.y(low)
        missing = max(least - (bottom - top), 0.0)
        return Shape(
            tone,
            x=round(self.x(round_) + shift * column - width / 2, 2),
            y=round(top - missing / 2, 2),
            width=round(width, 2),
            height=round(bottom - top + missing, 2),
        )

    def hover(self, round_: int, text: str) -> Hover:
        """The column of a round."""
        centre = self.x(round_)
        return Hover(round(centre - self.step / 2, 2), round(self.step, 2), centre, text)

    def end_labels(self, series: Sequence[Series]) -> tuple[Dot, ...]:
        """Each line's name beside its last value, moved apart where two would overlap."""
        ends = []
        for one in series:
            finite = {r: v for r, v in one.values.items() if math.isfinite(v)}
            if finite:
                ends.append((self.y(finite[max(finite)]), one))
        ends.sort(key=lambda end: end[0])
        places: list[float] = []
        for y, _ in ends:
            places.append(max(y, places[-1] + _LABEL_GAP) if places else y)
        overshoot = max(0.0, places[-1] - (HEIGHT - BOTTOM)) if places else 0.0
        return tuple(
            Dot(self.right + 8, round(place - overshoot, 2), one.tone, one.label)
            for place, (_, one) in zip(places, ends, strict=True)
        )
