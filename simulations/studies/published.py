"""What the published private Fed-SB protocol reports, and what the same noise costs at a δ that means something.

The public code of Fed-SB (arXiv 2502.15436) takes δ as one over the number of *batches*, and builds its factors from
gradients of private rows before the accountant begins. The first is recomputed here. The second has no number: factors
that are a function of unnoised gradients are released with no finite ε.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.optimize import brentq

from fedtune.privacy.accounting import AccountantName, epsilon_of
from fedtune.privacy.events import Event

if TYPE_CHECKING:
    from rich.table import Table

BATCHES = 5723
"""Of one client in the published run: 183,122 rows (SNLI over three clients) in batches of 32."""
EPOCHS = 6
ROWS = 183_122
PUBLISHED = (1.0, 3.0, 5.0)


@dataclass(frozen=True, slots=True)
class Reported:
    """One published ε, and what it becomes."""

    reported: float
    """At δ = 1/5,723, by RDP."""
    noise_multiplier: float
    """What comes to that ε."""
    fixed_delta: float
    """ε at δ = 1e-5."""
    row_delta: float
    """ε at one over the rows."""
    needed: float
    """The noise multiplier that keeps the reported ε at one over the rows."""


def recompute(reported: float, accountant: AccountantName = "rdp") -> Reported:
    """The row of one reported ε, `accountant` as published (`rdp`) or ours (`pld`)."""

    def events(sigma: float) -> tuple[Event, ...]:
        return (Event(noise_multiplier=sigma, sampling_rate=1 / BATCHES, count=EPOCHS * BATCHES),)

    sigma = _noise_for(events, reported, 1 / BATCHES, accountant)
    return Reported(
        reported,
        sigma,
        epsilon_of(events(sigma), 1e-5, accountant=accountant),
        epsilon_of(events(sigma), 1 / ROWS, accountant=accountant),
        _noise_for(events, reported, 1 / ROWS, accountant),
    )


def published_table() -> "Table":
    """For the terminal: the three published ε, recomputed by the published accountant."""
    from rich.table import Table

    table = Table(
        title="published Fed-SB under privacy, recomputed (factors from unnoised gradients: no ε covers them)"
    )
    for heading in ("reported ε", "noise", "ε at δ = 1e-5", "ε at δ = 1/rows", "noise for the reported ε at 1/rows"):
        table.add_column(heading, justify="right")
    for row in map(recompute, PUBLISHED):
        figures = (row.noise_multiplier, row.fixed_delta, row.row_delta, row.needed)
        table.add_row(f"{row.reported:g}", *(f"{figure:.2f}" for figure in figures))
    return table


def _noise_for(
    events: Callable[[float], tuple[Event, ...]], epsilon: float, delta: float, accountant: AccountantName
) -> float:
    """The noise multiplier whose ε is `epsilon`, to four digits."""
    found = brentq(
        lambda sigma: epsilon_of(events(sigma), delta, accountant=accountant) - epsilon, 0.35, 4.0, xtol=1e-4
    )
    return float(found)
