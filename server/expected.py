"""What a client's update must look like: which tensors the scheme has it send, in the shapes of its rank."""

from dataclasses import dataclass

from fedtune.adapters.slots import Slots, choose_slots, narrow_shapes
from fedtune.aggregation import SCHEMES, Frame
from fedtune.errors import WrongRank
from fedtune.recipe import Recipe
from fedtune.split.sides import travels
from fedtune.state import Shapes
from server.tasking import Tasking


@dataclass(frozen=True, slots=True)
class Expected:
    """The shapes of one client's update; what the coordinator trains of a body is in none."""

    slots: Slots
    shapes: Shapes
    control: Shapes
    """Of the change of its control variate; empty without SCAFFOLD."""


class Expectation:
    """What is expected in one round, by client and the rank that it claims."""

    def __init__(self, recipe: Recipe, frame: Frame, tasking: Tasking, round_: int) -> None:
        self._recipe, self._frame, self._tasking, self._round = recipe, frame, tasking, round_
        scheme = SCHEMES[recipe.aggregation.scheme]
        names = tuple(frame.shapes)
        trained = scheme.trains(names, round_)
        stays = frozenset(scheme.keeps(names))
        self._shapes = {name: frame.shapes[name] for name in sorted(trained) if name not in stays and travels(name)}
        self._control = {name: frame.shapes[name] for name in sorted(trained)} if recipe.training.scaffold else {}
        self._may_differ = frame.form in scheme.heterogeneous_for

    def __call__(self, client: str, claimed: int) -> Expected:
        """What `client` must send, which claims to have trained `claimed` slots (0: all of them).

        Raises WrongRank where it was given fewer, or where the scheme takes no other rank than the adapter's.
        """
        total = self._frame.slots
        given, rank = self._tasking.rank(client), claimed or total
        if rank > given:
            raise WrongRank(f"the update claims rank {rank}, and the client was given {given}")
        if rank < total and not self._may_differ:
            raise WrongRank(f"the update claims rank {rank}, and the scheme takes rank {total} alone")
        seed = self._recipe.run.seed
        slots = choose_slots(self._frame.form, total, rank, seed=seed, round_=self._round, client=client)
        return Expected(slots, narrow_shapes(self._shapes, self._frame.axes, slots), self._control)
