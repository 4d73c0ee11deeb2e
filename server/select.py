"""Which clients a round asks: drawn by the run's seed, in an order that is random too."""

import math

import torch

from fedtune.recipe import FederationSection
from fedtune.seeds import generator


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


def select_evaluators(section: FederationSection, names: list[str], *, seed: int, round_: int) -> list[str]:
    """The clients that score a state on their own rows: all of them, or `evaluate_clients` drawn anew each time."""
    order = torch.randperm(len(names), generator=generator(seed, "evaluators", round_=round_)).tolist()
    return [names[i] for i in order][: section.evaluate_clients or len(names)]
