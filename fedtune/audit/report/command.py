"""`fedtune audit RUN`: the privacy report of a run, written or verified."""

import sys
from pathlib import Path

import click

EPILOG = """\b
Examples:
  fedtune audit runs/private
  fedtune audit runs/private --verify
  fedtune audit audit-report.json --verify --ledger ledger.jsonl --public-key ledger.pub
"""
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("report", epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=_FILE, help="Where to write the JSON; default RUN/audit-report.json.")
@click.option("--html", "html_file", type=_FILE, help="Where to write the page; default RUN/audit-report.html.")
@click.option("--verify", "check", is_flag=True, help="Compare a report with its ledger; RUN may be the report.")
@click.option("--ledger", type=click.Path(path_type=Path), help="--verify: the ledger; default beside the report.")
@click.option("--public-key", type=_FILE, metavar="FILE", help="The `ledger.pub` that the coordinator gave out.")
@click.option("--head", "heads", multiple=True, metavar="HASH", help="A head that a client keeps; may be repeated.")
def report_command(
    run: Path,
    json_file: Path | None,
    html_file: Path | None,
    check: bool,
    ledger: Path | None,
    public_key: Path | None,
    heads: tuple[str, ...],
) -> None:
    """Write what the run folder RUN guarantees to whom, as JSON and as one page for people.

    Everything is computed from the run's ledger. With --verify nothing is written: the report in RUN is computed again
    and compared, and each figure that differs is named. The exit code is 1 where a figure differs, the ledger is broken
    or a check of the run fails.
    """
    from fedtune.audit.report.verify import read_report

    if check:
        report_path = run / "audit-report.json" if run.is_dir() else run
        _verify(json_file or report_path, ledger or report_path.parent, public_key, heads)
        return
    if ledger is not None:
        raise click.UsageError("--ledger goes with --verify: a report is written from the ledger in RUN")
    from fedtune.audit.report.write import write_report

    _check_ledger(run, public_key, heads)
    written = write_report(run, json_file, html_file)
    statements = read_report(written.json)["statements"]
    click.echo(statements["headline"])
    click.echo(f"{written.html}\n{written.json}")
    failed = [c for c in statements["checks"] if c["found"]]
    for found in failed:
        click.echo(f"{found['question']} No: {found['found']}", err=True)
    if failed:
        sys.exit(1)


def _verify(report_path: Path, ledger_path: Path, public_key: Path | None, heads: tuple[str, ...]) -> None:
    from fedtune.audit.ledger import read_ledger
    from fedtune.audit.report.verify import adapter_difference, read_report, verify
    from fedtune.audit.report.write import measured_in

    report = read_report(report_path)
    _check_ledger(ledger_path, public_key, heads)
    folder = ledger_path if ledger_path.is_dir() else ledger_path.parent
    found = read_ledger(ledger_path)
    verdict = verify(report, found, measured_in(folder))
    other = adapter_difference(found, folder)
    differences = [*map(str, verdict.differences), *([str(other)] if other else [])]
    for line in [*differences, *(f"note: {note}" for note in verdict.notes)]:
        click.echo(line)
    click.echo(_conclusion(len(differences)))
    sys.exit(1 if differences else 0)


def _check_ledger(ledger: Path, public_key: Path | None, heads: tuple[str, ...]) -> None:
    """What others know of the ledger, where something is given: whose key it is, and heads that it must hold."""
    from fedtune.audit.ledger import read_ledger
    from fedtune.audit.ledger import verify as check
    from fedtune.audit.ledger.signing import read_public_key

    if public_key or heads:
        check(read_ledger(ledger), public_key=read_public_key(public_key) if public_key else "", heads=heads)


def _conclusion(differences: int) -> str:
    if differences:
        return f"{differences} difference{'' if differences == 1 else 's'}: the report is not what the ledger gives"
    return "everything in the report follows from the ledger"
