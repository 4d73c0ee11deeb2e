"""Which clients a round asks: drawn by the run's seed, in an order that is random too, unless privacy draws them."""

import math
from dataclasses import dataclass

import torch

from fedtune.recipe import FederationSection
from fedtune.seeds import generator


@dataclass(frozen=True, slots=True)
class Draw:
    """Who a round asks: settled, and written down by who keeps books, before anything is sent."""

    clients: tuple[str, ...]
    """In the order of the draw; may be empty where privacy drew it."""
    enough: int | None
    """Good updates after which the round closes; None waits for everybody until the deadline."""
    connected: int
    """How many clients it was drawn from."""
    sampling_rate: float | None = None
    """The probability with which each of them is in, independently; None where that is not how they were drawn."""
    population: int = 0
    """Client-level privacy: the public number of enrolled clients; 0 elsewhere."""


def wanted(section: FederationSection, connected: int) -> int:
    """How many updates a round waits for."""
    return min(section.clients_per_round or connected, connected)


def asked(section: FederationSection, connected: int) -> int:
    """How many clients a round asks: the wanted ones and the over-selection."""
    return min(math.ceil(wanted(section, connected) * (1 + section.over_select)), connected)


def select(section: FederationSection, names: list[str], *, seed: int, round_: int) -> list[str]:
    """The clients of a round, drawn uniformly without replacement.

    The order is the draw's: where a round closes early, nobody is left out for the letters of a name.
    """
    order = torch.randperm(len(names), generator=generator(seed, "select", round_=round_)).tolist()
    chosen = [names[i] for i in order]
    return chosen[: asked(section, len(names))]


def draw_by_seed(section: FederationSection, names: list[str], *, seed: int, round_: int) -> Draw:
    """The draw of a round without client-level privacy: whoever knows the recipe can repeat it."""
    chosen = select(section, names, seed=seed, round_=round_)
    return Draw(tuple(chosen), wanted(section, len(names)), len(names))


def select_evaluators(section: FederationSection, names: list[str], *, seed: int, round_: int) -> list[str]:
    """The clients that score a state on their own rows: all of them, or `evaluate_clients` drawn anew each time."""
    order = torch.randperm(len(names), generator=generator(seed, "evaluators", round_=round_)).tolist()
    return [names[i] for i in order][: section.evaluate_clients or len(names)]
