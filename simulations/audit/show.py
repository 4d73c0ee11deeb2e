"""What a person sees of an audit: a bar while it attacks, and the claim beside what was found."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedtune.audit.estimators import reach
from fedtune.audit.result import AuditResult
from simulations.audit.setting import Told


@contextmanager
def attack_bar() -> Iterator[Told]:
    """A bar for the attack that comes after the rounds; on stderr, and on a terminal alone."""
    console = Console(stderr=True)
    columns = (TextColumn("attacking"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
    task = bar.add_task("attacking", total=None, start=False)

    def told(done: int, total: int) -> None:
        if not bar.live.is_started:
            bar.start()
            bar.start_task(task)
        bar.update(task, completed=done, total=total)

    try:
        yield told
    finally:
        bar.stop()


def show(result: AuditResult, folder: Path, console: Console) -> None:
    """Print the claim, every bound with what it needs, the direct tests, and what speaks against the claim."""
    console.print(
        f"claimed: ε = {result.claimed_epsilon:.3f} at δ = {result.delta:g} for each {result.unit} "
        f"({result.relation}); {result.inserted} of {result.canaries} canaries were in",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_bounds(result))
    for estimate in result.estimates:
        value = "infinite" if estimate.epsilon is None else f"{estimate.epsilon:.3f}"
        console.print(
            f"estimate, no bound: {value} ({estimate.method}, {estimate.attack}), if {estimate.model}",
            highlight=False,
            soft_wrap=True,
        )
    if result.checks:
        console.print(_checks(result))
    console.print(_verdict(result), highlight=False, soft_wrap=True)
    console.print(f"written: {folder / 'audit.json'}", highlight=False, soft_wrap=True)


def _bounds(result: AuditResult) -> Table:
    table = Table("ε is at least", "attack", "estimator", "confidence", "holds for", box=None)
    for bound in result.bounds:
        needs = "any mechanism" if bound.decides else f"{bound.assumption}; does not decide"
        table.add_row(f"{bound.epsilon:.3f}", bound.attack, bound.method, f"{bound.confidence:.4g}", needs)
    return table


def _checks(result: AuditResult) -> Table:
    table = Table("direct test", "", "found", box=None)
    for check in result.checks:
        table.add_row(check.name, "holds" if check.holds else "[bold red]fails[/]", check.found)
    return table


def _verdict(result: AuditResult) -> str:
    if result.passed:
        most = reach(result.canaries, delta=result.delta, confidence=max(b.confidence for b in result.bounds))
        return (
            f"Nothing speaks against the claim: ε ≥ {result.lower_bound:.3f} with confidence {result.confidence:g}. "
            f"That is no proof of it; on {result.canaries} canaries a perfect attack shows ε ≥ {most:.2f}."
        )
    return "\n".join(f"[bold red]Against the claim:[/] {sentence}." for sentence in result.against)
