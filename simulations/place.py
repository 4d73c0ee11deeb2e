"""What a process needs to answer for the virtual clients of a recipe."""

from dataclasses import dataclass
from pathlib import Path

from client.heads import PassingHeads
from client.work import Workplace
from fedtune.cohort.room import Room
from fedtune.recipe import Recipe
from fedtune.runs.kept import Keep
from fedtune.split.copies import BodyCopies
from fedtune.split.local import local_bodies
from simulations.bodies import BodiesApart
from simulations.freed import keep_freed
from simulations.groups import Answers
from simulations.population import Population


@dataclass(frozen=True, slots=True)
class Place:
    """The workplace that answers for the clients of a recipe in this process."""

    workplace: Workplace
    copies: BodyCopies | None
    """Of a split model's body, where the recipe trains it."""

    @classmethod
    def of(cls, population: Population, copies: BodyCopies | None, *, keep: Path, room: Room, alone: bool) -> "Place":
        """Load what the clients of a population work with; raises FedtuneError.

        `copies` are those of the body that they train, if any, `keep` is the folder of what they keep to themselves,
        `room` is for what is kept of rows; `alone` where no other process answers for these clients.
        """
        keep_freed()
        recipe = population.recipe
        bodies = local_bodies(recipe, copies) if recipe.split.active else None
        heads = None if alone else PassingHeads()
        workplace = Workplace(population, keep=Keep(keep), open_body=bodies, heads=heads, room=room)
        return cls(workplace, copies)

    @property
    def apart(self) -> Answers:
        """The workplace as one among several processes: a trained body comes with a task and leaves with the reply."""
        return BodiesApart(self.workplace, self.copies) if self.copies else self.workplace


def kept_in(recipe: Recipe) -> Path:
    """The folder of what the clients of a recipe's run keep to themselves."""
    return Path(recipe.run.folder).absolute() / recipe.run.name / "clients"
