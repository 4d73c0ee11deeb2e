"""`fedtune ledger`: verify, show and name the head of a run's privacy ledger."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.table import Table

    from fedtune.audit.ledger import Entry, Ledger, Verdict
    from fedtune.audit.ledger.bodies import Body

VERIFY_EPILOG = """\b
Examples:
  fedtune ledger verify runs/private
  fedtune ledger verify ledger.jsonl --public-key ledger.pub --head 5f0c…
"""
_PATH = click.Path(path_type=Path)


@click.group(epilog="Example:  fedtune ledger verify runs/private")
def ledger() -> None:
    """Check and show what a run spent of whose privacy."""


@ledger.command(epilog=VERIFY_EPILOG)
@click.argument("run", type=_PATH)
@click.option("--public-key", type=_PATH, metavar="FILE", help="The `ledger.pub` that the coordinator gave out.")
@click.option("--head", "heads", multiple=True, metavar="HASH", help="A head that a client keeps; may be repeated.")
def verify(run: Path, public_key: Path | None, heads: tuple[str, ...]) -> None:
    """Find any changed, dropped, moved, repeated or missing byte in the ledger of RUN.

    RUN is a run folder or a ledger file. The chain, signatures, Merkle roots, the order of the entries and each
    reservation against the plan are checked, and in a run folder the samples that were drawn. A file cannot know
    whether entries are missing at its end, nor whose key signed it: --head and --public-key say what others know.
    """
    from fedtune.audit.ledger import read_ledger
    from fedtune.audit.ledger import verify as check
    from fedtune.audit.ledger.draws import check_draws, open_draws
    from fedtune.audit.ledger.signing import read_public_key

    found = read_ledger(run)
    verdict = check(found, public_key=read_public_key(public_key) if public_key else "", heads=heads)
    draws = check_draws(found, open_draws(run)) if run.is_dir() else []
    for line in _summary(found, verdict, [len(draw.drawn) for draw in draws]):
        click.echo(line)


@ledger.command(epilog="Example:  fedtune ledger show runs/private")
@click.argument("run", type=_PATH)
def show(run: Path) -> None:
    """Print the entries of RUN's ledger, checked, as a table."""
    from rich.console import Console

    from fedtune.audit.ledger import read_ledger

    Console().print(render(read_ledger(run)))


@ledger.command(epilog="Example:  fedtune ledger head runs/private")
@click.argument("run", type=_PATH)
def head(run: Path) -> None:
    """Print the hash of the last entry of RUN's ledger."""
    from fedtune.audit.ledger import read_ledger

    click.echo(read_ledger(run).head.hash)


def render(ledger: "Ledger") -> "Table":
    """The entries as a table for a terminal."""
    from rich.table import Table

    table = Table(title=str(ledger.path), title_justify="left")
    for heading in ("", "time", "kind", "round", "what it says", "hash"):
        right, fixed = heading in ("", "round"), heading in ("time", "hash")
        table.add_column(heading, justify="right" if right else "left", overflow="fold", no_wrap=fixed)
    for entry in ledger.entries:
        round_ = getattr(entry.body, "round", "")
        table.add_row(str(entry.seq), entry.time[:19], entry.kind, str(round_), _said(entry), entry.hash.hex()[:12])
    return table


def _said(entry: "Entry") -> str:
    body = entry.body
    what = getattr(body, "what", "")
    return " ".join(filter(None, [what, _WORDS[entry.kind](body)]))


def _reserved(body: "Body") -> str:
    from fedtune.audit.ledger import ReserveBody
    from fedtune.privacy.events import Event

    if not isinstance(body, ReserveBody):
        return ""

    def told(event: Event) -> str:
        return f"{event.count} × σ={event.noise_multiplier:.4g} q={event.sampling_rate:.4g}"

    charged = f"{len(body.participants)} charged" if body.participants else "everybody charged"
    return ", ".join([*map(told, body.events), charged] if body.events else ["nothing of its own"])


_WORDS: "Mapping[str, Callable[[Any], str]]" = {
    "open": lambda body: f"run {body.run[:8]}",
    "reserve": _reserved,
    "commit": lambda body: f"{sum(o == 'ok' for o in body.outcomes.values())} ok" if body.outcomes else "",
    "abort": lambda body: f"{body.reason}: spent",
    "close": lambda body: f"after {body.rounds} rounds",
}


def _summary(ledger: "Ledger", verdict: "Verdict", draws: list[int]) -> list[str]:
    """What is known, and then what is not."""
    from fedtune.audit.ledger import spent
    from fedtune.privacy.accounting import epsilon_of

    plan, sums = verdict.plan, spent(ledger)
    epsilon = max(epsilon_of(events, plan.delta) if events else 0.0 for events in sums.histories())
    whom = f"the most that one of {len(sums.names)} participants was charged" if sums.names else "charged to everybody"
    lines = [
        f"{ledger.path}: {len(ledger.entries)} entries, whole and in order",
        f"  signed by {ledger.public_key}",
        f"  head      {ledger.head.hash}" + ("" if ledger.closed else "  (not closed)"),
        f"  spent     ε = {epsilon:.4g} at δ = {plan.delta:g} for each {plan.unit}, {plan.relation}; {whom}",
    ]
    if ledger.pending:
        lines.append(f"  open      {ledger.pending.what} of round {ledger.pending.round}: counted as spent")
    if draws:
        lines.append(f"  drawn     {len(draws)} samples as committed to, {sum(draws) / len(draws):.2f} clients each")
    return [*lines, *(f"  not known {sentence}" for sentence in verdict.open_ends)]
