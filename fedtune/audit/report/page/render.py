"""From a report to the text of its page: everything on it is in the report."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from fedtune.audit.report.document import digest
from fedtune.audit.report.page.curve import curve_chart
from fedtune.audit.report.words import (
    ACCOUNTANTS,
    MECHANISMS,
    RELATIONS,
    bound_text,
    count_text,
    delta_text,
    epsilon_text,
    events_text,
    share_text,
)
from fedtune.privacy.events import from_json
from fedtune.runs.words import plain_tick

MAX_ROWS = 40
"""A table of the page is no longer than this; the JSON holds the rest."""
LEVELS = {
    "promise": "What is promised",
    "computation": "How it is computed",
    "base": "What it stands on",
}
"""The pyramid, from its top."""


@dataclass(frozen=True, slots=True)
class Headline:
    """One of the large numbers at the top."""

    name: str
    value: str
    note: str = ""


def render_page(report: Mapping[str, Any]) -> str:
    """The page as HTML: no script, no request to anywhere, every text of the report escaped."""
    figures = report["figures"]
    spent = figures["spent"]
    curve = [(point["delta"], point["epsilon"]) for point in spent["curve"]]
    style = _read("fedtune.runs.page", "page.css") + _read("fedtune.audit.report.page", "report.css")
    return (
        _environment()
        .get_template("page.html")
        .render(
            style=Markup(style),  # noqa: S704 - our own files, not the report's
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            report=report,
            figures=figures,
            said=report["statements"],
            sound=is_sound(figures),
            headlines=_headlines(figures),
            unit="row" if figures["promise"]["unit"] == "example" else "participant",
            mechanism=MECHANISMS[figures["promise"]["sampler"]],
            chart=curve_chart(curve, spent["delta"], spent["epsilon"]),
            groups=_groups(figures["composition"]),
            participants=_participants(figures["composition"]),
            accountants=ACCOUNTANTS,
            released=list(zip(figures["released"], report["statements"]["released"], strict=True)),
            checks=list(zip(figures["checks"], report["statements"]["checks"], strict=True)),
            levels=LEVELS,
            max_rows=MAX_ROWS,
            hash=digest(report),
        )
    )


def is_sound(figures: Mapping[str, Any]) -> bool:
    """Does every check of the report hold?"""
    return all(check["holds"] for check in figures["checks"])


def _headlines(figures: Mapping[str, Any]) -> list[Headline]:
    promise, spent, rounds = figures["promise"], figures["spent"], figures["rounds"]
    allowed = f"{epsilon_text(promise['epsilon'])} allowed" if promise["epsilon"] else "no limit set"
    unit = "one row" if promise["unit"] == "example" else "one participant"
    planned = f"{rounds['committed']:,} of {promise['rounds']:,}"
    lost = rounds["charged"] - rounds["committed"]
    return [
        Headline("ε", epsilon_text(spent["epsilon"]), f"{allowed}; PLD, an upper bound"),
        Headline("δ", delta_text(spent["delta"]), "the chance left over for which ε is not promised"),
        Headline("Hidden", unit, RELATIONS[promise["relation"]]),
        Headline("Rounds released", planned, f"{count_text(lost, 'round')} lost{', and counted' if lost else ''}"),
        *[
            Headline("Found at 1 % false alarms", f"≤ {bound_text(a['true_positive_rate'])}", "by any attack")
            for a in spent["attacks"]
            if a["false_positive_rate"] == 0.01
        ],
        Headline("Attacker's advantage", f"≤ {bound_text(spent['advantage'])}", "0 % is blind guessing"),
        _measured(figures["empirical"]),
        _who(figures),
    ]


def _measured(empirical: Mapping[str, Any] | None) -> Headline:
    if empirical is None:
        return Headline("Measured ε", "–", "no empirical audit was made")
    record = empirical["record"]
    sure = f"with {share_text(record['confidence'])} confidence"
    return Headline("Measured ε", f"≥ {empirical['lower_bound']:.2f}", sure)


def _who(figures: Mapping[str, Any]) -> Headline:
    composition, population = figures["composition"], figures["promise"]["population"]
    if composition["named"] and composition["participants"]:
        return Headline("Participants", f"{len(composition['participants']):,}", "under pseudonyms, below")
    return Headline("Participants", f"{population:,}" if population else "–", "enrolled; who was drawn is not said")


@dataclass(frozen=True, slots=True)
class Group:
    """Participants who have been charged the same."""

    events: str
    participants: int
    epsilon: str


def _groups(composition: Mapping[str, Any]) -> list[Group]:
    """Those with the largest ε first."""
    groups = sorted(composition["groups"], key=_dearest)
    return [Group(events_text(from_json(g["events"])), g["participants"], epsilon_text(g["epsilon"])) for g in groups]


def _participants(composition: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = composition["groups"]
    rows = sorted(composition["participants"], key=lambda p: (_dearest(groups[p["group"]]), p["pseudonym"]))
    return [{**row, "epsilon": epsilon_text(groups[row["group"]]["epsilon"])} for row in rows]


def _dearest(group: Mapping[str, Any]) -> float:
    return -(float("inf") if group["epsilon"] is None else group["epsilon"])


def _environment() -> Environment:
    made = Environment(
        loader=FunctionLoader(lambda name: _read("fedtune.audit.report.page", name)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        epsilon=epsilon_text,
        delta=delta_text,
        share=share_text,
        bound=bound_text,
        number=plain_tick,
        events=lambda values: events_text(from_json(values)),
        moment=_moment,
        together=_together,
    )
    return made


def _moment(time: str) -> str:
    """`2026-01-31 12:00 UTC` of an ISO time."""
    return f"{time[:16].replace('T', ' ')} UTC"


def _together(text: str) -> str:
    """With formulas that no line break parts."""
    return text.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}").replace(" %", "\N{NO-BREAK SPACE}%")


def _read(package: str, name: str) -> str:
    return (resources.files(package) / name).read_text(encoding="utf-8")
