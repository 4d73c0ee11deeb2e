"""The charts of learning: scores and losses of the global state, round by round."""

from collections.abc import Callable, Sequence

from fedtune.runs.end_table import score_name
from fedtune.runs.page.chart import Canvas, Chart, Dot, Series
from fedtune.runs.record import RoundRecord, ScoreRecord
from fedtune.runs.summary import Summary, perplexity
from fedtune.runs.words import number_text, percent_text, percent_tick, plain_tick

Text = Callable[[float], str]


def score_chart(records: Sequence[RoundRecord], summary: Summary) -> Chart | None:
    """Accuracy, or perplexity for `causal-lm`, of the evaluated states; None without any."""
    of_loss = summary.task == "causal-lm"

    def value(score: ScoreRecord) -> float:
        return perplexity(score.loss) if of_loss else score.accuracy

    series = _evaluated(records, value)
    name = score_name(summary.task).capitalize()
    if of_loss:
        return _line_chart(name, series, summary, number_text, plain_tick)
    return _line_chart(name, series, summary, percent_text, percent_tick)


def loss_chart(records: Sequence[RoundRecord], summary: Summary) -> Chart | None:
    """Mean losses: of the evaluated states, and of the clients while they train."""
    series = _evaluated(records, lambda score: score.loss)
    trained = {r.round: r.train_loss for r in records if r.train_loss is not None}
    if trained:
        series.append(Series("training", "green", trained, dashed=True))
    return _line_chart("Loss", series, summary, number_text, plain_tick)


def _evaluated(records: Sequence[RoundRecord], value: Callable[[ScoreRecord], float]) -> list[Series]:
    central = {r.round: value(r.central) for r in records if r.central}
    federated = {r.round: value(r.federated) for r in records if r.federated}
    both = (Series("central", "blue", central), Series("federated", "orange", federated))
    return [series for series in both if series.values]


def _line_chart(title: str, series: list[Series], summary: Summary, text: Text, tick: Text) -> Chart | None:
    if not series:
        return None
    rounds = sorted({r for one in series for r in one.values})
    canvas = Canvas(
        rounds, [v for one in series for v in one.values.values()], from_zero=False, tick=tick, label_room=True
    )
    dots = [dot for one in series for dot in canvas.points(one)]
    best = summary.best_round
    first = series[0].values
    if best is not None and best in first:
        dots.append(Dot(canvas.x(best), canvas.y(first[best]), "best"))
    return Chart(
        title=title,
        description=_describe(title, series, text),
        y_ticks=canvas.y_ticks,
        x_ticks=canvas.x_ticks,
        shapes=tuple(canvas.line(one) for one in series),
        labels=canvas.end_labels(series),
        hovers=tuple(canvas.hover(r, _hover_text(r, series, text)) for r in rounds),
        dots=tuple(dots),
        legend=() if best is None else (("best", f"best: round {best}"),),
    )


def _hover_text(round_: int, series: Sequence[Series], text: Text) -> str:
    values = (f"{one.label} {text(one.values[round_])}" for one in series if round_ in one.values)
    return f"round {round_}: " + ", ".join(values)


def _describe(title: str, series: Sequence[Series], text: Text) -> str:
    courses = (
        f"{one.label} from {text(one.values[min(one.values)])} in round {min(one.values)} "
        f"to {text(one.values[max(one.values)])} in round {max(one.values)}"
        for one in series
    )
    return f"{title} over rounds: " + "; ".join(courses) + "."
