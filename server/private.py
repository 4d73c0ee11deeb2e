"""Client-level privacy at the coordinator: who is drawn, and how a round's sum is released, as the plan says."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from fedtune.aggregation import Aggregator, Frame
from fedtune.aggregation.exact_sum import MAX_TERMS
from fedtune.aggregation.private import Release, make_private_aggregator
from fedtune.errors import PrivacyError
from fedtune.privacy.adaptive import QuantileClip
from fedtune.privacy.banded import BandedNoise
from fedtune.privacy.noise import NoiseSource, SecureNoise
from fedtune.privacy.plan import Plan, plan_of, separated_participations
from fedtune.privacy.rows import PoissonRows
from fedtune.recipe import Recipe
from fedtune.state import Shapes, State
from server.private_past import Past
from server.private_turns import Turns
from server.select import Draw

Remembers = Callable[[], Past]
"""Tells of the rounds so far; asked by a mechanism that depends on them alone."""


class Mechanism(ABC):
    """One way to settle who is in a round and what noise its sum gets."""

    rate: float | None = None
    """The probability with which a client is drawn; None where it is not drawn at random."""
    divisor: float
    """How many updates are expected in a round: public."""

    @abstractmethod
    def choose(self, names: Sequence[str]) -> tuple[str, ...]:
        """Who is in the next round."""

    @abstractmethod
    def noise(self, shapes: Shapes) -> State:
        """The noise of the round that was chosen last, for a sum of sensitivity 1, float64."""


class Sampled(Mechanism):
    """Independent draws of clients, independent noise; both from cryptographic generators."""

    def __init__(self, recipe: Recipe, plan: Plan, source: NoiseSource, _: Remembers) -> None:
        self.rate: float = plan.sampling_rate
        self.divisor = plan.sampling_rate * recipe.privacy.population
        self._sigma = plan.noise_multiplier
        self._source = source
        self._coins = PoissonRows()

    def choose(self, names: Sequence[str]) -> tuple[str, ...]:
        """Each client with the plan's probability."""
        return tuple(names[index] for index in self._coins.draw(len(names), self.rate))

    def noise(self, shapes: Shapes) -> State:
        """Fresh for each round."""
        return {name: self._source.normal(shape).double() * self._sigma for name, shape in shapes.items()}


class Separated(Mechanism):
    """Clients in turns, so that nobody is in two rounds that are less than `separation` apart; noise correlated over
    rounds.

    With `population` clients of which `clients_per_round` are to be in a round, each is in every
    population/clients_per_round rounds: the separation that the plan counts participations by. It is no less than the
    bands of the noise, so that the columns of a client's rounds share no row.
    """

    def __init__(self, recipe: Recipe, plan: Plan, source: NoiseSource, remembers: Remembers) -> None:
        asked, past = recipe.federation.clients_per_round, remembers()
        self.divisor = float(asked)
        self._turns = Turns(
            period=plan.separation,
            most=separated_participations(plan.rounds, plan.separation),
            seed=recipe.run.seed,
            taken=past.drawn,
            known_as=past.known_as,
        )
        self._noise = BandedNoise(source, plan.noise_multiplier, plan.bands)

    def choose(self, names: Sequence[str]) -> tuple[str, ...]:
        """Whose turn it is."""
        return self._turns.take(names)

    def noise(self, shapes: Shapes) -> State:
        """The row of the round."""
        return self._noise.row(self._turns.row - 1, shapes)


MECHANISMS: Mapping[str, type[Sampled] | type[Separated]] = MappingProxyType(
    {"poisson-clients": Sampled, "separated": Separated}
)
"""By `Plan.sampler`."""


class ClientPrivacy:
    """The mechanism of one run, for as long as the process lives.

    Guarantees: clip, noise and rate are those of the plan that is accounted; a sum is released only for clients that
    were drawn for it, and once.
    """

    def __init__(self, recipe: Recipe, plan: Plan, frame: Frame, remembers: Remembers, source: NoiseSource) -> None:
        self._recipe = recipe
        self._plan = plan
        self._frame = frame
        self._source = source
        self._mechanism: Mechanism = MECHANISMS[plan.sampler](recipe, plan, source, remembers)
        self._pending: Draw | None = None

    def draw(self, names: Sequence[str]) -> Draw:
        """Draw among the connected clients; raises PrivacyError where there are more than the declared population."""
        population = self._recipe.privacy.population
        if len(names) > population:
            raise PrivacyError(
                f"{len(names)} clients are connected and privacy.population declares {population}: disconnect those "
                "that are not enrolled, or start another run with a population that counts all of them"
            )
        chosen = self._mechanism.choose(names)
        if len(chosen) > MAX_TERMS:
            raise PrivacyError(f"{len(chosen)} clients were drawn and a round sums {MAX_TERMS} at most; draw fewer")
        self._pending = Draw(chosen, None, len(names), self._mechanism.rate, population)
        return self._pending

    def aggregator(self, draw: Draw) -> Aggregator:
        """The aggregator of the round that `draw` was made for; raises PrivacyError for an older draw."""
        if draw is not self._pending:
            raise PrivacyError("this draw was released or replaced; a round needs a draw of its own")
        self._pending = None
        release = Release(
            clip=self._plan.clip,
            divisor=self._mechanism.divisor,
            noise=self._mechanism.noise,
            adapt=self._adapt(),
            source=self._source,
        )
        return make_private_aggregator(self._recipe.aggregation, self._frame, release)

    def _adapt(self) -> QuantileClip | None:
        section = self._recipe.privacy
        if section.clip_quantile is None:
            return None
        return QuantileClip(section.clip_quantile, section.clip_rate, section.count_noise, self._mechanism.divisor)


def client_privacy(
    recipe: Recipe, frame: Frame, remembers: Remembers, *, source: NoiseSource | None = None
) -> ClientPrivacy | None:
    """The coordinator's part of `recipe`'s privacy; None where it adds no noise itself.

    Raises PrivacyError where the noise is open (`calibrated` settles it), LedgerBroken where the past is not known.
    """
    plan = plan_of(recipe)
    if plan is None or plan.trust != "coordinator":
        return None
    return ClientPrivacy(recipe, plan, frame, remembers, source or SecureNoise())
