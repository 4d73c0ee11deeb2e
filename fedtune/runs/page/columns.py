"""The charts of work: what clients reported, sent and took, one column a round."""

import math
import statistics
from collections.abc import Callable, Sequence

from fedtune.runs.page.chart import Canvas, Chart, Shape
from fedtune.runs.record import ClientRecord, RoundRecord
from fedtune.runs.words import bytes_text, number_text, plain_tick, seconds_text

Text = Callable[[float], str]
Values = dict[int, list[float]]


def client_loss_chart(records: Sequence[RoundRecord]) -> Chart | None:
    """How far apart the clients' training losses are."""
    return _spread_chart(
        "Clients' training loss", _gather(records, lambda c: c.loss), from_zero=False, text=number_text, tick=plain_tick
    )


def client_time_chart(records: Sequence[RoundRecord]) -> Chart | None:
    """How far apart the clients' times are."""
    values = _gather(records, lambda c: c.seconds if c.outcome == "ok" else None)
    return _spread_chart("Time of a client", values, from_zero=True, text=seconds_text, tick=_axis_seconds)


def traffic_chart(records: Sequence[RoundRecord]) -> Chart | None:
    """Bytes of each round, both ways."""
    rounds = [r.round for r in records]
    ways = {
        "blue": ("to clients", {r.round: r.bytes_down() for r in records}, -0.2),
        "orange": ("from clients", {r.round: r.bytes_up() for r in records}, 0.2),
    }
    values = [float(v) for _, by_round, _ in ways.values() for v in by_round.values()]
    if not any(values):
        return None
    canvas = Canvas(rounds, values, from_zero=True, tick=_axis_bytes)
    shapes = tuple(
        canvas.bar(r, 0, v, tone, share=0.38, shift=shift)
        for tone, (_, by_round, shift) in ways.items()
        for r, v in by_round.items()
        if v
    )
    down, up = (by_round for _, by_round, _ in ways.values())
    hovers = [f"round {r}: {bytes_text(down[r])} to clients, {bytes_text(up[r])} from clients" for r in rounds]
    total = f"{bytes_text(sum(down.values()))} to clients and {bytes_text(sum(up.values()))} from them"
    return Chart(
        title="Traffic of a round",
        description=f"Bytes of each round, over the run {total}.",
        y_ticks=canvas.y_ticks,
        x_ticks=canvas.x_ticks,
        shapes=shapes,
        labels=(),
        hovers=tuple(canvas.hover(r, text) for r, text in zip(rounds, hovers, strict=True)),
        legend=tuple((tone, label) for tone, (label, _, _) in ways.items()),
    )


def duration_chart(records: Sequence[RoundRecord]) -> Chart | None:
    """Wall-clock seconds of each round; a round that changed nothing stands out."""
    seconds = {r.round: r.seconds for r in records if r.seconds is not None}
    return _duration_chart("Time of a round", "Seconds", seconds, records)


def virtual_chart(records: Sequence[RoundRecord]) -> Chart | None:
    """The same on the virtual clock; None where none ran."""
    seconds = {r.round: r.virtual.seconds for r in records if r.virtual is not None}
    return _duration_chart("Virtual time of a round", "Virtual seconds", seconds, records)


def _duration_chart(title: str, what: str, seconds: dict[int, float], records: Sequence[RoundRecord]) -> Chart | None:
    if not seconds:
        return None
    canvas = Canvas(list(seconds), list(seconds.values()), from_zero=True, tick=_axis_seconds)
    in_vain = [r.round for r in records if r.round > 0 and not r.aggregated]
    legend = (("blue", "round"), *([("red", "too few updates, nothing changed")] if in_vain else []))
    return Chart(
        title=title,
        description=f"{what} of each round, {seconds_text(sum(seconds.values()))} in all.",
        y_ticks=canvas.y_ticks,
        x_ticks=canvas.x_ticks,
        shapes=tuple(
            canvas.bar(round_, 0, took, "red" if round_ in in_vain else "blue", share=0.7)
            for round_, took in seconds.items()
        ),
        labels=(),
        hovers=tuple(canvas.hover(round_, f"round {round_}: {seconds_text(took)}") for round_, took in seconds.items()),
        legend=legend,
    )


def _gather(records: Sequence[RoundRecord], value: Callable[[ClientRecord], float | None]) -> Values:
    gathered: Values = {}
    for record in records:
        values = [v for c in record.clients if (v := value(c)) is not None and math.isfinite(v)]
        if values:
            gathered[record.round] = sorted(values)
    return gathered


def _spread_chart(title: str, values: Values, *, from_zero: bool, text: Text, tick: Text) -> Chart | None:
    if not values:
        return None
    rounds = sorted(values)
    everything = [v for of_round in values.values() for v in of_round]
    canvas = Canvas(rounds, everything, from_zero=from_zero, tick=tick)
    shapes: list[Shape] = []
    hovers = []
    for round_ in rounds:
        low, first, middle, third, high = _five_numbers(values[round_])
        shapes.append(canvas.bar(round_, low, high, "whisker", share=0.06))
        shapes.append(canvas.bar(round_, first, third, "box", share=0.6))
        shapes.append(canvas.bar(round_, middle, middle, "median", share=0.6, least=2.4))
        words = f"median {text(middle)}, half within {text(first)}–{text(third)}, all within {text(low)}–{text(high)}"
        hovers.append(canvas.hover(round_, f"round {round_}: {len(values[round_])} clients, {words}"))
    medians = [statistics.median(values[r]) for r in (rounds[0], rounds[-1])]
    return Chart(
        title=title,
        description=f"{title} by round; the median goes from {text(medians[0])} to {text(medians[1])}.",
        y_ticks=canvas.y_ticks,
        x_ticks=canvas.x_ticks,
        shapes=tuple(shapes),
        labels=(),
        hovers=tuple(hovers),
        legend=(("median", "median"), ("box", "middle half of the clients"), ("whisker", "all clients")),
    )


def _five_numbers(ordered: Sequence[float]) -> tuple[float, float, float, float, float]:
    if len(ordered) == 1:
        return (ordered[0],) * 5
    first, middle, third = statistics.quantiles(ordered, n=4, method="inclusive")
    return ordered[0], first, middle, third, ordered[-1]


def _axis_seconds(value: float) -> str:
    return f"{value:g} s" if value < 120 else seconds_text(value)


def _axis_bytes(value: float) -> str:
    number, unit = bytes_text(value).split(" ")
    return f"{float(number):g} {unit}"
