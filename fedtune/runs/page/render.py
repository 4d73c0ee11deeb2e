"""From a run folder to the text of its page."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from fedtune.runs.end_table import score_name, score_words
from fedtune.runs.folder import RunFolder
from fedtune.runs.page.columns import (
    client_loss_chart,
    client_time_chart,
    duration_chart,
    traffic_chart,
    virtual_chart,
)
from fedtune.runs.page.curves import loss_chart, score_chart
from fedtune.runs.page.tables import (
    MAX_ROWS,
    count_reasons,
    environment_rows,
    left_out,
    recipe_sections,
    round_rows,
)
from fedtune.runs.record import RoundRecord
from fedtune.runs.summary import Summary, summarise_rounds
from fedtune.runs.virtual import virtual_words
from fedtune.runs.words import bytes_text, number_text, seconds_text


@dataclass(frozen=True, slots=True)
class Headline:
    """One of the large numbers at the top."""

    name: str
    value: str
    before: str = ""
    note: str = ""


def render_page(folder: RunFolder) -> str:
    """The page as HTML: no script, no request to anywhere, every text of the run escaped.

    Raises RunError where the run's rounds are damaged.
    """
    records = folder.rounds()
    summary = summarise_rounds(records, name=folder.info.name, status=folder.status, task=folder.recipe.model.task)
    charts = [
        ("Learning", [score_chart(records, summary), loss_chart(records, summary)]),
        ("Clients", [client_loss_chart(records), client_time_chart(records)]),
        ("Traffic and time", [traffic_chart(records), duration_chart(records), virtual_chart(records)]),
    ]
    updates = left_out(records)
    style = _read("page.css")
    return (
        _environment()
        .get_template("page.html")
        .render(
            style=Markup(style),  # noqa: S704 - our own file, not the run's
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            folder=folder,
            info=folder.info,
            recipe=folder.recipe,
            summary=summary,
            headlines=_headlines(summary, records),
            chart_groups=[(name, [c for c in group if c]) for name, group in charts],
            reasons=count_reasons(updates),
            left_out=updates[:MAX_ROWS],
            left_out_total=len(updates),
            round_rows=round_rows(records, summary),
            max_rows=MAX_ROWS,
            sections=recipe_sections(folder.recipe),
            environment=environment_rows(folder),
        )
    )


def _headlines(summary: Summary, records: Sequence[RoundRecord]) -> list[Headline]:
    updates = summary.outcomes.get("ok", 0)
    asked = sum(summary.outcomes.values())
    without = summary.rounds_without_change
    rounds = Headline("Rounds", f"{summary.rounds:,}", note=f"{without} without enough updates" if without else "")
    if summary.hides_clients:
        secret = Headline("Clients", "–", note="how many were drawn is a secret, and so are traffic and times")
        return [*_scores(summary), rounds, secret, *_product_error(records)]
    return [
        *_scores(summary),
        Headline("Sent by a client", bytes_text(summary.up_per_client.median), note="median over the whole run"),
        Headline("Sent to a client", bytes_text(summary.down_per_client.median), note="median over the whole run"),
        Headline(
            "Traffic",
            bytes_text(summary.bytes_up + summary.bytes_down),
            note=f"{bytes_text(summary.bytes_down)} down, {bytes_text(summary.bytes_up)} up",
        ),
        Headline("Time", seconds_text(summary.seconds), note="all rounds, with evaluation"),
        *_virtual(summary),
        rounds,
        Headline("Clients", f"{summary.clients:,}", note=f"{updates:,} of {asked:,} updates counted"),
        *_product_error(records),
    ]


def _virtual(summary: Summary) -> list[Headline]:
    if summary.virtual is None:
        return []
    clock = seconds_text(summary.virtual.clock_s)
    return [Headline("Virtual time", clock, note=virtual_words(summary.virtual).partition(", ")[2])]


def _product_error(records: Sequence[RoundRecord]) -> list[Headline]:
    errors = [record.product_error for record in records if record.product_error is not None]
    if not errors:
        return []
    return [Headline("Product error", f"{max(errors):.1e}", note="largest of all rounds, relative to the mean product")]


def _scores(summary: Summary) -> list[Headline]:
    words = score_words(summary)
    if words is None:
        return [Headline("Score", "–", note="no state was evaluated")]
    (main_before, loss_before), (main_after, loss_after) = words
    where = "central test set" if summary.where == "central" else "clients' held-out rows"
    best = "" if summary.best is None else f"best in round {summary.best_round}: {number_text(summary.best.loss)}"
    return [
        Headline(score_name(summary.task).capitalize(), main_after, before=main_before, note=where),
        Headline("Loss", loss_after, before=loss_before, note=best),
    ]


def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _read(name: str) -> str:
    return (resources.files("fedtune.runs.page") / name).read_text(encoding="utf-8")
