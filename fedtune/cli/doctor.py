"""`fedtune doctor`: what this machine can do, and what it lacks."""

import dataclasses
import json
import sys
from collections.abc import Mapping

import click

from fedtune import __version__
from fedtune.cli.checks import (
    Finding,
    State,
    check_devices,
    check_extras,
    check_machine,
    check_packages,
    check_port,
    check_store,
    healthy,
)

EPILOG = """\b
Examples:
  fedtune doctor
  fedtune doctor --port 9000
  fedtune doctor --json > machine.json
"""

MARKS: Mapping[State, str] = {"good": "[green]yes[/]", "absent": "[yellow]-[/]", "problem": "[bold red]no[/]"}


@click.command(epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
@click.option("--port", default=7443, show_default=True, type=click.IntRange(1, 65535), help="The port to look at.")
def doctor(as_json: bool, port: int) -> None:
    """Show what this machine can do: devices, packages, models and data at hand, room, the coordinator's port.

    A dash marks what only some recipes need. The exit code is 1 where something would stop any run.
    """
    findings = {
        "machine": [*check_machine(), *check_port(port)],
        "devices": check_devices(),
        "packages": check_packages(),
        "optional": check_extras(),
        "models and data": check_store(),
    }
    well = all(map(healthy, findings.values()))
    if as_json:
        click.echo(_json(findings, well))
    else:
        _print(findings, well)
    sys.exit(0 if well else 1)


def _json(findings: Mapping[str, list[Finding]], well: bool) -> str:
    groups = {title: [dataclasses.asdict(finding) for finding in group] for title, group in findings.items()}
    return json.dumps({"fedtune": __version__, "healthy": well, **groups}, indent=2)


def _print(findings: Mapping[str, list[Finding]], well: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for title, group in findings.items():
        table.add_row("", f"[bold]{title}[/]", "")
        for finding in group:
            table.add_row(MARKS[finding.state], finding.name, Text(finding.detail))
    console = Console()
    console.print(table)
    console.print(
        "\n[green]nothing stands in the way of a run[/]" if well else "\n[red]what is marked “no” must be mended[/]"
    )
