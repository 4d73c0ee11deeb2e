"""What was spent on a data set, for its owner to read: in all, and by run; never anything of the rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from client.policy.account import EpsilonOf, Spent, spent
from client.policy.entry import Entry
from client.policy.policy import BudgetSection


@dataclass(frozen=True, slots=True)
class RunShare:
    """What one run spent by itself; the shares of several runs add up to more than all of them together."""

    run: str
    coordinator: str
    tasks: int
    unfinished: int
    """Reserved, and no reply was made: spent all the same."""
    last: str
    spent: Spent


def by_run(entries: Sequence[Entry], delta: float, epsilon_of: EpsilonOf | None = None) -> list[RunShare]:
    """Each run's share, in the order in which they began."""
    runs: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        runs.setdefault((entry.run, entry.coordinator), []).append(entry)
    return [
        RunShare(
            run=run,
            coordinator=coordinator,
            tasks=sum(entry.what == "reserve" for entry in of_run),
            unfinished=sum(1 if entry.what == "reserve" else -1 for entry in of_run),
            last=max(entry.at for entry in of_run),
            spent=spent(of_run, delta, epsilon_of),
        )
        for (run, coordinator), of_run in runs.items()
    ]


def lines(
    dataset: str,
    entries: Sequence[Entry],
    delta: float,
    budget: BudgetSection | None = None,
    epsilon_of: EpsilonOf | None = None,
) -> list[str]:
    """A data set's account, one sentence a line."""
    total = spent(entries, delta, epsilon_of)
    cap, left = (f" of {budget.epsilon:g}", f"; {_left(budget.epsilon, total.epsilon)} is left") if budget else ("", "")
    said = [f"{dataset}: ε {total.epsilon:.4g}{cap} is spent at δ = {delta:g} ({total.about}){left}"]
    if total.unprotected:
        said.append(f"  {_tasks(total.unprotected)} without privacy, which no ε bounds")
    for share in by_run(entries, delta, epsilon_of):
        where = f" for {share.coordinator}" if share.coordinator else ""
        price = (
            "without privacy" if share.spent.unprotected == share.tasks else f"ε {share.spent.epsilon:.4g} by itself"
        )
        unfinished = f", {share.unfinished} unfinished" if share.unfinished else ""
        said.append(
            f"  run {share.run[:12]}{where}: {_tasks(share.tasks)}{unfinished}, {price}, last {share.last[:10]}"
        )
    return said


def _tasks(count: int) -> str:
    return f"{count} task{'s' * (count != 1)}"


def _left(cap: float, epsilon: float) -> str:
    return f"{max(0.0, cap - epsilon):.4g}" if math.isfinite(epsilon) else "0"
