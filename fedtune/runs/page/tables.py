"""The tables of the page: updates that were left out, rounds, the recipe, the environment."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import RoundRecord
from fedtune.runs.summary import Summary, score_of
from fedtune.runs.words import bytes_text, number_text, percent_text, seconds_text

MAX_ROWS = 200
"""A table of the page is no longer than this; rounds.jsonl holds the rest."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of the recipe."""

    name: str
    value: str
    changed: bool
    """Is it another than the default?"""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One update that did not count."""

    round: int
    client: str
    outcome: str
    detail: str


def left_out(records: Sequence[RoundRecord]) -> list[LeftOut]:
    """Every refused, late or quarantined update, newest first."""
    return [
        LeftOut(r.round, c.client, c.outcome, c.detail)
        for r in reversed(records)
        for c in r.clients
        if c.outcome != "ok"
    ]


def count_reasons(updates: Sequence[LeftOut]) -> list[tuple[str, int, int]]:
    """(outcome, how many updates, of how many clients), most frequent first."""
    clients: dict[str, list[str]] = defaultdict(list)
    for update in updates:
        clients[update.outcome].append(update.client)
    counted = [(outcome, len(names), len(set(names))) for outcome, names in clients.items()]
    return sorted(counted, key=lambda row: (-row[1], row[0]))


def round_rows(records: Sequence[RoundRecord], summary: Summary) -> list[list[str]]:
    """The newest rounds as texts: round, score, loss, training loss, product error, updates, down, up, time."""
    return [_round_row(record, summary) for record in records[-MAX_ROWS:]]


def _round_row(record: RoundRecord, summary: Summary) -> list[str]:
    score = score_of(record, summary.where)
    good = sum(c.outcome == "ok" for c in record.clients)
    return [
        f"{record.round}{' ★' if record.round == summary.best_round else ''}",
        percent_text(score.accuracy) if score else "",
        number_text(score.loss) if score else "",
        number_text(record.train_loss) if record.train_loss is not None else "",
        f"{record.product_error:.1e}" if record.product_error is not None else "",
        f"{good} of {len(record.clients)}" if record.clients else "",
        bytes_text(record.bytes_down()) if record.clients else "",
        bytes_text(record.bytes_up()) if record.clients else "",
        seconds_text(record.seconds) if record.seconds is not None else "",
    ]


def recipe_sections(recipe: Recipe) -> list[tuple[str, list[Setting]]]:
    """Every setting by section, as resolved, with those that are not the default marked."""
    given = recipe.model_dump(mode="json", exclude_defaults=True)
    sections: dict[str, list[Setting]] = {}
    for section, values in recipe.model_dump(mode="json").items():
        if isinstance(values, dict):
            _add_section(sections, section, values, given.get(section, {}))
    return list(sections.items())


def environment_rows(folder: RunFolder) -> list[tuple[str, str]]:
    """The machine and versions, then what changed when the run was resumed."""
    environment = folder.environment()
    packages = environment.pop("packages", {})
    rows = [(name.replace("_", " "), _text(value)) for name, value in environment.items() if value not in ("", [])]
    rows += [(name, str(value)) for name, value in packages.items() if value]
    for resumption in folder.info.resumptions:
        changes = "; ".join(f"{name}: {change}" for name, change in resumption.changes.items())
        rows.append(
            ("resumed", f"{resumption.at}, after round {resumption.after_round}" + (f" ({changes})" if changes else ""))
        )
    return rows


def _add_section(sections: dict[str, list[Setting]], name: str, values: dict[str, Any], given: dict[str, Any]) -> None:
    rows = sections.setdefault(name, [])
    for key, value in values.items():
        if isinstance(value, dict):
            _add_section(sections, f"{name}.{key}", value, given.get(key, {}))
        else:
            rows.append(Setting(key, _text(value), key in given))


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None or value == "" else str(value)
