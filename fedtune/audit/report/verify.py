"""A report against its ledger: every figure computed again, and each one that differs named."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedtune import __version__
from fedtune.audit.ledger.bodies import CloseBody
from fedtune.audit.ledger.entry import folder_digest
from fedtune.audit.ledger.read import Ledger
from fedtune.audit.report.document import FORMAT, Report, gather, statements_of
from fedtune.audit.report.figures import figures_of
from fedtune.audit.report.signature import is_genuine
from fedtune.audit.result import AuditResult
from fedtune.errors import PrivacyError

TOLERANCE = 1e-6
"""How far a figure may be off, relatively: accountants on two machines round differently."""
SEARCHED = {"figures.spent.gdp_mu": 2e-4}
"""Figures that a search gives, which ends within its own tolerance on either side."""
ADAPTER = "adapter"
"""The folder in a run folder that holds what was released."""
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where the report does not say what the ledger gives."""

    where: str
    """Dotted, such as `figures.spent.epsilon`."""
    said: str
    computed: str

    def __str__(self) -> str:
        return f"{self.where} is {self.said}, and the ledger gives {self.computed}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a comparison."""

    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    """What was not checked, or is weaker than it could be, one sentence each."""


def read_report(path: Path) -> Report:
    """A report from its file; PrivacyError where it is none of this version."""
    try:
        report = json.loads(path.read_bytes(), parse_constant=_no_number)
    except OSError as error:
        raise PrivacyError(f"{path} cannot be read: {error.strerror}; write it with fedtune audit RUN") from error
    except (ValueError, RecursionError) as error:
        raise PrivacyError(f"{path} is no audit report: it is not JSON") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise PrivacyError(f"{path} is no audit report of this version ({FORMAT})")
    return report


def verify(report: Mapping[str, Any], ledger: Ledger, empirical: AuditResult | None = None) -> Verdict:
    """Compute everything in `report` again from `ledger`, and compare.

    `empirical` is the `audit.json` that the report should hold; None takes the report's word for it, and notes that.

    Guarantees: no number, name, hash or truth value among the report's figures can differ from the recomputed one, by
    more than `TOLERANCE` for numbers that are no counts, without being named; with the signature, not a byte.
    """
    notes = []
    if empirical is None and (empirical := _embedded(report)) is not None:
        notes.append("its empirical audit was taken at its word: there is no audit.json beside the ledger")
    facts = gather(ledger, empirical)
    differences = list(compare(report.get("figures"), figures_of(facts), "figures"))
    if _version(report) == __version__:
        differences += compare(report.get("statements"), statements_of(facts), "statements")
    else:
        notes.append(
            f"its sentences were written by fedtune {_version(report)}, this is {__version__}: they were not compared"
        )
    if report.get("signature") is None:
        notes.append("it is not signed: whoever wrote it did not hold the ledger's key")
    else:
        differences += _signature(report, ledger)
    return Verdict(tuple(differences), tuple(notes))


def compare(said: Any, computed: Any, where: str) -> Iterator[Difference]:
    """Every place where two JSON values differ."""
    if isinstance(said, Mapping) and isinstance(computed, Mapping):
        for key in sorted({*said, *computed}):
            yield from compare(said.get(key, _MISSING), computed.get(key, _MISSING), f"{where}.{key}")
    elif _is_list(said) and _is_list(computed):
        for place, (a, b) in enumerate(zip_longest(said, computed, fillvalue=_MISSING)):
            yield from compare(a, b, f"{where}[{place}]")
    elif not _is_same(said, computed, SEARCHED.get(where, TOLERANCE)):
        yield Difference(where, _shown(said), _shown(computed))


def _is_same(said: Any, computed: Any, tolerance: float) -> bool:
    if isinstance(said, bool) or isinstance(computed, bool):
        return said is computed
    if isinstance(computed, float) and isinstance(said, int | float):
        return math.isclose(said, computed, rel_tol=tolerance)
    return type(said) is type(computed) and bool(said == computed)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "missing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _signature(report: Mapping[str, Any], ledger: Ledger) -> Iterator[Difference]:
    signature = report["signature"]
    key = signature.get("public_key") if isinstance(signature, Mapping) else None
    if key != ledger.public_key:
        yield Difference("signature.public_key", _shown(key), ledger.public_key)
    elif not is_genuine(report):
        yield Difference("signature.value", "not over what it stands in", "none: something was changed after signing")


def _embedded(report: Mapping[str, Any]) -> AuditResult | None:
    """The empirical audit in a report; None where it holds none, or what is none."""
    figures = report.get("figures")
    empirical = figures.get("empirical") if isinstance(figures, Mapping) else None
    record = empirical.get("record") if isinstance(empirical, Mapping) else None
    try:
        return AuditResult.model_validate_json(json.dumps(record)) if record is not None else None
    except ValidationError:
        return None


def adapter_difference(ledger: Ledger, run: Path) -> Difference | None:
    """Where the adapter in a run folder is not the one that its ledger ends with; None too where there is none."""
    body, adapter = ledger.entries[-1].body, run / ADAPTER
    if not isinstance(body, CloseBody) or not body.adapter_digest or not adapter.is_dir():
        return None
    found = folder_digest(adapter)
    return None if found == body.adapter_digest else Difference(str(adapter), found, body.adapter_digest)


def _version(report: Mapping[str, Any]) -> str:
    made = report.get("made")
    return str(made.get("fedtune")) if isinstance(made, Mapping) else ""


def _no_number(constant: str) -> float:
    raise ValueError(f"it holds {constant}")
