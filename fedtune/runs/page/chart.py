"""What is drawn on one chart: plain shapes with places, for the template to write as SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedtune.runs.page.scale import Scale, nice_range, round_ticks

WIDTH, HEIGHT = 600, 290
LEFT, RIGHT, TOP, BOTTOM = 62, 92, 16, 42
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
    note: str = ""
    box: tuple[int, int, int, int] = field(default=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM))
    """left, top, right, bottom of the plot."""


class Canvas:
    """The axes of one chart: rounds along x, one quantity along y."""

    def __init__(
        self, rounds: Sequence[int], values: Sequence[float], *, from_zero: bool, text: Callable[[float], str]
    ) -> None:
        self.rounds = rounds
        self.text = text
        low, high, ticks = nice_range(values, from_zero=from_zero)
        first, last = rounds[0], rounds[-1]
        self.step = (WIDTH - LEFT - RIGHT) / (last - first + 1)
        self.x = Scale(first - 0.5, last + 0.5, LEFT, WIDTH - RIGHT)
        self.y = Scale(low, high, HEIGHT - BOTTOM, TOP)
        self.y_ticks = tuple(Tick(self.y(t), text(t)) for t in ticks)
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

    def bar(self, round_: int, low: float, high: float, tone: str, *, share: float, shift: float = 0.0) -> Shape:
        """A bar from `low` to `high`, `share` of a round's column wide, `shift` columns beside its middle."""
        width = max(0.6, min(self.step * share, 26))
        top, bottom = self.y(high), self.y(low)
        x = self.x(round_) + shift * min(self.step, 26 / share) - width / 2
        return Shape(tone, x=round(x, 2), y=top, width=round(width, 2), height=round(max(bottom - top, 0.8), 2))

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
            Dot(WIDTH - RIGHT + 8, round(place - overshoot, 2), one.tone, one.label)
            for place, (_, one) in zip(places, ends, strict=True)
        )
