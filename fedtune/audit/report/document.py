"""The report as JSON: figures that the ledger alone gives, the statements that follow from them, and a signature."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fedtune import __version__
from fedtune.audit.ledger.canonical import encode
from fedtune.audit.ledger.read import Ledger
from fedtune.audit.report.checks import promised_plan, run_checks
from fedtune.audit.report.facts import Facts
from fedtune.audit.report.figures import figures_of
from fedtune.audit.report.hazards import hazards_of
from fedtune.audit.report.headline import explanations, headline
from fedtune.audit.report.history import read_history
from fedtune.audit.report.loss import dearest, epsilon_of_all, measure
from fedtune.audit.report.released import COVERS, WORDS, released_of
from fedtune.audit.report.signature import sign
from fedtune.audit.report.spending import spending_of
from fedtune.audit.report.trust import threats_of, trust_of
from fedtune.audit.result import AuditResult
from fedtune.runs.info import now

FORMAT = "fedtune-audit-report/2"
Report = dict[str, Any]


def gather(ledger: Ledger, empirical: AuditResult | None = None) -> Facts:
    """Everything about a run, recomputed from its ledger.

    Raises PrivacyError where the run promised no privacy or its recipe is of another version.
    """
    history = read_history(ledger)
    plan = promised_plan(history)
    spending = spending_of(history)
    events = dearest(spending.compositions(), plan.delta)
    loss = measure(events, plan.delta)
    planned = epsilon_of_all(plan.planned(), plan.delta)
    checks = run_checks(history, plan, loss.epsilon, planned, empirical)
    return Facts(history, plan, spending, loss, planned, checks, empirical)


def make_report(facts: Facts, run: Path) -> Report:
    """The report of a run folder, signed where the folder holds the ledger's key.

    Guarantees: all but `made` and `signature` is a function of the ledger, and of the empirical audit where there is
    one: `verify` computes it again.
    """
    report: Report = {
        "format": FORMAT,
        "figures": figures_of(facts),
        "statements": statements_of(facts),
        "made": {"at": now(), "fedtune": __version__, "dp_accounting": importlib.metadata.version("dp-accounting")},
    }
    return {**report, "signature": sign(report, run, facts.history.opened.public_key)}


def statements_of(facts: Facts) -> dict[str, Any]:
    """What the report says in words."""
    return {
        "headline": headline(facts),
        "explanations": explanations(facts),
        "trust": [dataclasses.asdict(row) for row in trust_of(facts)],
        "threats": [dataclasses.asdict(row) for row in threats_of(facts)],
        "released": [{"what": WORDS[r.what], "cover": COVERS[r.cover]} for r in released_of(facts)],
        "hazards": [dataclasses.asdict(row) for row in hazards_of(facts)],
        "checks": [{"question": check.question, "found": check.found} for check in facts.checks],
    }


def as_bytes(report: Mapping[str, Any]) -> bytes:
    """The file's content: JSON for people and programs."""
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def digest(report: Mapping[str, Any]) -> str:
    """SHA-256 of the report's canonical form, however its file is laid out; 64 hex digits."""
    return hashlib.sha256(encode(report)).hexdigest()


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every report keeps."""
    text = (resources.files("fedtune.audit.report") / "schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
