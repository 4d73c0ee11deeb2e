"""The privacy plan: the one place where clip, noise, sampling and accounting meet; what ran is accounted from it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from fedtune.errors import PrivacyError
from fedtune.privacy.events import Event, Relation, grouped, jointly
from fedtune.recipe import Recipe

MARGIN = 1e-6
"""How far, relatively, a given noise multiplier may miss the ε that is written beside it."""
Trust = Literal["coordinator", "client"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do to whom, and what that costs.

    Guarantees: `round_events` and `start_events` are computed from the very numbers that clip and add noise; a plan
    cannot be changed, only made anew from another recipe.
    """

    unit: Literal["example", "client"]
    relation: Relation
    delta: float
    clip: float
    """The norm that one unit's contribution is clipped to (the first one, where it adapts)."""
    noise_multiplier: float
    """Standard deviation of the noise over `clip`, as it is added."""
    sampling_rate: float
    sampler: Literal["poisson-rows", "poisson-clients", "separated", "none"]
    """Who is in: rows drawn by the client, clients drawn by the coordinator, clients at most once in
    `separation` rounds, or whoever is there."""
    trust: Trust
    """Who adds the noise: until then the unit is not hidden from it."""
    steps: int
    """Noised steps a round of one participant."""
    rounds: int
    start_events: tuple[Event, ...]
    """What is spent before the first round (initialisation)."""
    round_events: tuple[Event, ...]
    """What one round spends: of each participant (`example`, and local noise), of every client (`client`). Empty for
    the banded mechanism, whose rounds are one release."""
    run_events: tuple[Event, ...] = ()
    """What the run spends as a whole, however many rounds there are, up to `rounds`: the banded mechanism."""
    evaluation_events: tuple[Event, ...] = ()
    """What one federated evaluation spends."""
    evaluations: int = 0
    """How many of those are planned."""
    bands: int = 0
    """Of the banded mechanism; 0 for the others."""
    separation: int = 0
    """How many rounds two rounds of one client are apart at least, `bands` or more; 0 for the other mechanisms."""

    def planned(self) -> tuple[Event, ...]:
        """The events of the whole run, for a participant of every round."""
        rounds = [event.times(self.rounds) for event in self.round_events]
        evaluations = [event.times(self.evaluations) for event in self.evaluation_events] if self.evaluations else []
        return grouped((*self.start_events, *rounds, *self.run_events, *evaluations))

    def as_json(self) -> dict[str, Any]:
        """JSON values, by field."""
        from fedtune.privacy.events import as_json

        fields = {name: getattr(self, name) for name in self.__slots__}
        return {k: as_json(v) if k.endswith("_events") else v for k, v in fields.items()}


def plan_of(recipe: Recipe) -> Plan | None:
    """The plan of a recipe whose noise is settled; None where it promises nothing.

    Raises PrivacyError where the noise is open: the coordinator settles it by `calibrated` before anything runs.
    """
    section = recipe.privacy
    if section.unit == "none":
        return None
    if section.noise_multiplier is None:
        raise PrivacyError("privacy.noise_multiplier is open: the coordinator calibrates it before a run")
    return _plan(recipe, section.noise_multiplier)


def calibrated(recipe: Recipe) -> Recipe:
    """The recipe with the least noise that keeps `privacy.epsilon` over all planned rounds, where it names no noise.

    Raises PrivacyError where no noise reaches it, as where the start alone spends more, and where the noise that it
    names does not.
    """
    section = recipe.privacy
    if section.unit == "none":
        return recipe
    if section.delta is None or (section.epsilon is None and section.noise_multiplier is None):
        raise PrivacyError("privacy needs delta, and either epsilon or noise_multiplier")
    if section.noise_multiplier is not None:
        _check_reached(recipe)
        return recipe
    from fedtune.privacy.accounting import calibrate

    epsilon = section.epsilon or 0.0
    sigma = calibrate(lambda sigma: _plan(recipe, sigma).planned(), epsilon=epsilon, delta=section.delta)
    return recipe.model_copy(update={"privacy": section.model_copy(update={"noise_multiplier": sigma})})


def _check_reached(recipe: Recipe) -> None:
    section, plan = recipe.privacy, plan_of(recipe)
    if plan is None or section.epsilon is None:
        return
    from fedtune.privacy.accounting import epsilon_of

    reached = epsilon_of(plan.planned(), plan.delta)
    if reached > section.epsilon * (1 + MARGIN):
        raise PrivacyError(
            f"privacy.noise_multiplier = {section.noise_multiplier:g} comes to ε = {reached:.3f} over the planned "
            f"rounds, more than privacy.epsilon = {section.epsilon:g}: take noise_multiplier out to have it "
            "calibrated, or raise epsilon"
        )


def separation_of(recipe: Recipe) -> int:
    """How many rounds two rounds of one client are apart at least: what turns are kept by, and participations counted.

    `privacy.population` clients take turns by `federation.clients_per_round`, so that a turn comes round no sooner than
    after the quotient, and never within `privacy.min_separation`.
    """
    section, asked = recipe.privacy, recipe.federation.clients_per_round
    return max(section.min_separation, section.population // asked if asked else 0)


def separated_participations(rounds: int, separation: int) -> int:
    """How many rounds one client can be in at most."""
    return math.ceil(rounds / separation)


def _plan(recipe: Recipe, sigma: float) -> Plan:
    kind = recipe.privacy.unit if recipe.privacy.noise == "coordinator" else "local"
    return _PLANS[kind](recipe, sigma, _common(recipe, sigma))


def _common(recipe: Recipe, sigma: float) -> Plan:
    section = recipe.privacy
    return Plan(
        unit="example",
        relation="add-or-remove-one",
        delta=section.delta or 0.0,
        clip=section.clip,
        noise_multiplier=sigma,
        sampling_rate=section.sampling_rate or 1.0,
        sampler="none",
        trust="client",
        steps=1,
        rounds=recipe.federation.rounds,
        start_events=(),
        round_events=(),
    )


def _example(recipe: Recipe, sigma: float, plan: Plan) -> Plan:
    """DP-SGD: every step a sampled Gaussian of each participant's rows."""
    section, steps = recipe.privacy, recipe.training.steps or 0
    start = (Event(noise_multiplier=section.init_noise, purpose="init"),)
    noised = section.metrics == "noised"
    return replace(
        plan,
        sampler="poisson-rows",
        steps=steps,
        start_events=start if recipe.adapter.init == "dp-gradient" else (),
        round_events=(Event(noise_multiplier=sigma, sampling_rate=plan.sampling_rate, count=steps),) if steps else (),
        evaluation_events=(Event(noise_multiplier=section.metrics_noise, purpose="metrics"),) if noised else (),
        evaluations=planned_evaluations(recipe) if noised else 0,
    )


def _client(recipe: Recipe, sigma: float, plan: Plan) -> Plan:
    """Clipped updates of sampled, or separated, clients, and noise at the coordinator."""
    section = recipe.privacy
    central = replace(plan, unit="client", trust="coordinator", sampler="poisson-clients")
    if section.mechanism == "banded":
        # Columns of unit norm, at most `most` of them of one client and no two overlapping: √most.
        separation = separation_of(recipe)
        most = separated_participations(plan.rounds, separation)
        return replace(
            central,
            sampler="separated",
            sampling_rate=1.0,
            run_events=(Event(noise_multiplier=sigma / math.sqrt(most)),),
            bands=section.min_separation,
            separation=separation,
        )
    # The count's sensitivity is 1/2 (b - 1/2), its noise is that of the count itself.
    joint = sigma if section.clip_quantile is None else jointly(sigma, 2 * section.count_noise)
    return replace(central, round_events=(Event(noise_multiplier=joint, sampling_rate=plan.sampling_rate),))


def _local(_: Recipe, sigma: float, plan: Plan) -> Plan:
    """Noise of each client on its own update: any two updates are at most twice the clip apart."""
    event = Event(noise_multiplier=sigma / 2)
    return replace(plan, unit="client", relation="replace-one", sampling_rate=1.0, round_events=(event,))


_PLANS: Mapping[str, Callable[[Recipe, float, Plan], Plan]] = MappingProxyType(
    {"example": _example, "client": _client, "local": _local}
)


def planned_evaluations(recipe: Recipe) -> int:
    """Federated evaluations of the planned rounds: before the first, by `evaluate_every`, and after the last."""
    rounds, every = recipe.federation.rounds, recipe.federation.evaluate_every
    return len({0, rounds} | (set(range(every, rounds + 1, every)) if every else set()))
