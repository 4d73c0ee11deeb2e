"""Writing a report beside the run that it is about: `audit-report.json` and `audit-report.html`."""

from dataclasses import dataclass
from pathlib import Path

from fedtune.audit.ledger.read import read_ledger
from fedtune.audit.report.document import Report, as_bytes, gather, make_report
from fedtune.audit.report.page.render import render_page
from fedtune.audit.result import FILE, AuditResult
from fedtune.runs.atomic import storage_errors, write_atomically

JSON_NAME, HTML_NAME = "audit-report.json", "audit-report.html"


@dataclass(frozen=True, slots=True)
class Written:
    """What was written where."""

    report: Report
    json: Path
    html: Path


def write_report(run: Path, json: Path | None = None, html: Path | None = None) -> Written:
    """Write the report of a run folder, by default into it.

    Raises LedgerBroken where the ledger was changed, PrivacyError where the run promised nothing, RunError where a file
    cannot be written or `audit.json` cannot be read.
    """
    report = make_report(gather(read_ledger(run), measured_in(run)), run)
    written = Written(report, json or run / JSON_NAME, html or run / HTML_NAME)
    _write(written.json, as_bytes(report))
    _write(written.html, render_page(report).encode())
    return written


def measured_in(run: Path) -> AuditResult | None:
    """The empirical audit that lies in a run folder; None where there is none."""
    return AuditResult.read(run / FILE) if (run / FILE).is_file() else None


def _write(path: Path, content: bytes) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
