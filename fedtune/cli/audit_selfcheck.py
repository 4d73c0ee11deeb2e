"""`fedtune audit selfcheck`: mechanisms that are broken on purpose, and what of the audit sees each."""

import sys

import click

EPILOG = """\b
Example:
  fedtune audit selfcheck
"""


@click.command(epilog=EPILOG)
@click.option("--canaries", default=1000, show_default=True, type=click.IntRange(50, 20_000), help="Rows to attack.")
def selfcheck(canaries: int) -> None:
    """Break a small DP-SGD on purpose, and show which part of the audit sees each fault.

    The parts are the project's own clipping, coins and noise, with one of them exchanged. The exit code is 1 where a
    fault goes unseen, or where a direct test speaks against the mechanism that is as it should be, which happens by
    chance about once in two hundred times.
    """
    from rich.console import Console
    from rich.table import Table

    from fedtune.audit.checks.faults import FAULTS, look
    from fedtune.audit.checks.specimen import specimen_plan
    from fedtune.privacy.accounting import epsilon_of

    plan = specimen_plan()
    claimed = epsilon_of(plan.planned(), plan.delta)
    table = Table("fault", "lower bound on ε", "empirical audit", "seen by", box=None)
    wrong = False
    for fault in FAULTS:
        sight = look(fault, plan, canaries=canaries, epsilon=claimed)
        wrong |= bool(sight.seen_by) == (fault == "none")
        verdict = "refutes the claim" if sight.empirical else "does not"
        table.add_row(fault, f"{sight.bound:.2f}", verdict, ", ".join(sight.seen_by) or "nothing")
    console = Console()
    console.print(f"claimed: ε = {claimed:.2f} at δ = {plan.delta:g}; {canaries} canaries")
    console.print(table)
    sys.exit(int(wrong))
