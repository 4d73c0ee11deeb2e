"""What an audited run is made of, and the recipe that it runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from client.bench import Bench
from fedtune.audit.checks import Finding
from fedtune.audit.estimators import Bound, Estimate
from fedtune.audit.result import Attack
from fedtune.data.base import ClientData
from fedtune.errors import PrivacyError
from fedtune.recipe import Recipe
from fedtune.state import State
from simulations.groups import Answers

SUFFIX = "-audit"
"""Of the name of an audited run."""


@dataclass(frozen=True, slots=True)
class Released:
    """The states that an audited run released, its start first."""

    states: Mapping[int, State]
    """By round; 0 is the start."""

    @property
    def first(self) -> State:
        """What the run started from."""
        return self.states[min(self.states)]

    @property
    def last(self) -> State:
        """What the run came to."""
        return self.states[max(self.states)]


Told = Callable[[int, int], None]
"""Told how many pieces of the attack's work are done, of how many."""


@dataclass(frozen=True, slots=True)
class Side:
    """What is known beside the bounds that hold for any mechanism."""

    bounds: tuple[tuple[Attack, Bound], ...] = ()
    estimates: tuple[tuple[Attack, Estimate], ...] = ()


class Canaries(Protocol):
    """Canaries of one kind, in one run."""

    @property
    def names(self) -> Sequence[str]:
        """The clients of the run."""
        ...

    @property
    def coins(self) -> Mapping[str, bool]:
        """How each canary's coin fell."""
        ...

    @property
    def work(self) -> int:
        """Gradients, or inner products, that the attack takes."""
        ...

    def data_of(self, client: str, bench: Bench) -> ClientData:
        """The rows of a client that is no canary itself."""
        ...

    def watch(self, answers: Answers) -> Answers:
        """The answers of the run's clients, watched, with the canaries' own."""
        ...

    def scores(self, released: Released, told: Told) -> dict[Attack, dict[str, float]]:
        """Every canary's score by each attack."""
        ...

    def side(self, released: Released, delta: float, confidence: float) -> Side:
        """What only this kind of canary can say."""
        ...

    def check(self, released: Released) -> tuple[Finding, ...]:
        """Direct tests of the mechanism that ran."""
        ...


def untold(_done: int, _total: int) -> None:
    """Nobody is told."""


def audited(recipe: Recipe, canaries: int) -> Recipe:
    """The recipe as it is run under audit: every checkpoint kept, a name of its own, canary clients enrolled.

    None of it changes what the plan claims. Raises PrivacyError where there is nothing that could be audited.
    """
    section = recipe.privacy
    if section.unit == "none":
        raise PrivacyError('privacy.unit is "none": the recipe promises nothing that could be audited')
    if section.noise == "client":
        raise PrivacyError(
            'privacy.noise = "client" hides updates from the coordinator itself, which this attack does not play; '
            'audit the same noise with noise = "coordinator"'
        )
    kept = {"keep_checkpoints": recipe.federation.rounds + 1, "name": f"{recipe.run.name}{SUFFIX}"}
    update = {"run": recipe.run.model_copy(update=kept)}
    if section.unit == "client":
        enrolled = {"population": section.population + canaries}
        update["privacy"] = section.model_copy(update=enrolled)  # type: ignore[assignment]
    return recipe.model_copy(update=update)
