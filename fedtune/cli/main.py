"""`fedtune`: finds a command, loads it alone, and turns whatever goes wrong into sentences and an exit code."""

import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from fedtune import __version__
from fedtune.cli.commands import grouped, installed
from fedtune.cli.failures import DEBUG, FAILED, INTERRUPTED, sentences, wants_traceback

ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Nothing is reported home, and tokenizers do not warn after a fork; what the user has set stays."""

EPILOG = """\b
Examples:
  fedtune simulate movie-reviews
  fedtune init my.toml && fedtune recipe check my.toml
  fedtune COMMAND --help
"""


class Commands(click.Group):
    """A group whose commands are entry points, imported when they are called and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The installed commands, as the help shows them."""
        return [name for lines in grouped().values() for name in lines]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None where no package offers it."""
        entry = installed().get(cmd_name)
        if entry is None:
            return None
        command = entry.load()
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest command where there is none of that name."""
        if args and not args[0].startswith("-") and args[0] not in installed():
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`fedtune --help` lists the commands."
            ctx.fail(f"There is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands under their headings."""
        for title, lines in grouped().items():
            with formatter.section(title):
                formatter.write_dl(list(lines.items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line and exit: 0, 1 where it failed, 2 where it was not understood, 130 where it was stopped.

        Not standalone, it returns and raises as click does.
        """
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a terminal that lacks a character must not end a run
                stream.reconfigure(errors="replace")
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name or "fedtune", complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _exit("stopped", INTERRUPTED)
        except BrokenPipeError:
            # The reader (`| head`) has gone: what is still buffered has nowhere to go either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(FAILED)
        except Exception as error:
            if wants_traceback():
                raise
            _exit("\n".join(sentences(error)), FAILED)
        sys.exit(code if isinstance(code, int) else 0)


def _exit(said: str, code: int) -> NoReturn:
    for line in said.splitlines():
        click.secho(line, fg="red", err=True, color=False if "NO_COLOR" in os.environ else None)
    sys.exit(code)


def _ask_for_traceback(_: click.Context, __: click.Parameter, value: bool) -> None:
    if value:
        os.environ[DEBUG] = "1"  # the processes that a command starts obey it too


@click.group(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_ask_for_traceback,
    help=f"Show tracebacks; {DEBUG}=1 does the same.",
)
@click.version_option(__version__, prog_name="fedtune")
def main() -> None:
    """Federated, privacy-preserving fine-tuning of pretrained models.

    One recipe, a TOML file, drives simulation and deployment.
    """
