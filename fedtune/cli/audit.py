"""`fedtune audit`: an attack on a recipe, the report of a run, and a check of the audit itself."""

import importlib.metadata

import click

GROUP = "fedtune.audit_commands"
REPORT = "report"
"""The subcommand that is meant where the first argument is none: `fedtune audit runs/mine`."""

EPILOG = """\b
Examples:
  fedtune audit run movie-reviews-private --canaries 200
  fedtune audit runs/movie-reviews-private
  fedtune audit runs/movie-reviews-private --verify
  fedtune audit selfcheck
"""


class AuditCommands(click.Group):
    """Subcommands by their entry points: fedtune never imports the packages that build on it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, sorted."""
        return sorted(_entry_points())

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
        """As click's; a first argument that is no subcommand is a run folder, which is reported."""
        if args[0] not in self.list_commands(ctx):
            args = [REPORT, *args]
        return super().resolve_command(ctx, args)


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


@click.command(cls=AuditCommands, epilog=EPILOG)
def audit() -> None:
    """Attack a recipe (run), or write the privacy report of a run folder: fedtune audit RUN.

    `fedtune audit RUN --help` shows the options of the report.
    """
