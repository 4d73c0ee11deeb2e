"""The hazards of differential privacy in practice, after NIST SP 800-226 (March 2025), each answered for this run.

The order is that of the publication's pyramid: what is promised at the top, how it is computed in the middle, what it
stands on at the base. The names are ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from fedtune.audit.report.facts import Facts
from fedtune.audit.report.words import bound_text, count_text, delta_text, epsilon_text, relation_text, unit_text

Level = Literal["promise", "computation", "base"]
Answer = Literal["addressed", "partly", "not addressed"]


@dataclass(frozen=True, slots=True)
class Hazard:
    """One hazard and its answer."""

    level: Level
    name: str
    answer: Answer
    evidence: str


Say = tuple[Answer, str]


def hazards_of(facts: Facts) -> tuple[Hazard, ...]:
    """Every hazard, in the order of the pyramid."""
    return tuple(Hazard(level, name, *answer(facts)) for name, (level, answer) in HAZARDS.items())


def _size(facts: Facts) -> Say:
    found = bound_text(facts.loss.at(0.01).true_positive_rate)
    return "addressed", (
        f"ε = {epsilon_text(facts.loss.epsilon)} with its curve over δ, the accountants beside it and the table of "
        f"attacks (at most {found} found at 1 % wrongly accused); whether that suffices is for the data owners to say"
    )


def _delta(facts: Facts) -> Say:
    population, delta = facts.recipe.privacy.population, facts.plan.delta
    if population:
        return "addressed", f"δ = {delta_text(delta)} is below one over the population of {population:,}"
    return "partly", (
        f"δ = {delta_text(delta)} was set by hand; the ledger does not know how many there are to hide: compare it "
        "with one over that number"
    )


def _unit(facts: Facts) -> Say:
    if facts.plan.unit == "example":
        return "partly", f"the unit is {unit_text(facts.plan)}; a person with several rows is hidden less"
    return "addressed", f"the unit is {unit_text(facts.plan)}: all of its rows together"


def _relation(facts: Facts) -> Say:
    return "addressed", f"named wherever ε is: {relation_text(facts.plan)}"


def _composition(facts: Facts) -> Say:
    return "addressed", (
        f"all of {count_text(len(facts.history.charges), 'charge')} in the ledger compose into this ε, adaptively and "
        "over restarts, those of rounds that came to nothing included"
    )


def _other_runs(_: Facts) -> Say:
    return "partly", "this ledger knows this run alone; each participant's own budget book sums up all runs on its data"


def _sensitivity(facts: Facts) -> Say:
    what = "each row's gradient" if facts.plan.unit == "example" else "each whole update"
    how = {"per-layer": ", tensor by tensor", "automatic": ", by scaling every one to it"}
    by = how.get(facts.recipe.privacy.clipping, "")
    return "addressed", f"{what} is clipped to {facts.plan.clip:g}{by} before anything is added up; no bound is assumed"


def _from_the_data(facts: Facts) -> Say:
    if facts.recipe.privacy.clip_quantile is not None:
        return "addressed", "the clip adapts by noised counts, whose cost is in ε"
    return (
        "addressed",
        "clip, noise, rates and divisors are constants of the recipe, written down before the first round",
    )


def _tuning(_: Facts) -> Say:
    return "not addressed", (
        "tries on the same private rows that chose these settings are runs of their own, with ledgers of their own, "
        "and are not in this ε"
    )


def _sampling(facts: Facts) -> Say:
    if facts.plan.sampler == "poisson-clients" and facts.plan.sampling_rate < 1:
        held = next(c.holds for c in facts.checks if c.id == "drawn")
        return ("addressed" if held else "not addressed"), "each draw is in the ledger, committed to before it was used"
    if facts.plan.sampler == "poisson-rows" and facts.plan.sampling_rate < 1:
        return (
            "partly",
            "rows are drawn independently at the accounted rate, by each participant; others cannot check it",
        )
    return "addressed", "no amplification by sampling is claimed"


def _divisor(_: Facts) -> Say:
    return (
        "addressed",
        "sums are divided by public constants, never by how many rows or participants there happened to be",
    )


def _outputs(facts: Facts) -> Say:
    held_out = "noised and counted" if facts.recipe.privacy.metrics == "noised" else "withheld"
    return "addressed", f"training losses and numbers of rows are withheld, scores on held-out rows are {held_out}"


def _start(facts: Facts) -> Say:
    init = facts.recipe.adapter.init
    return {
        "dp-gradient": ("addressed", "the start comes from clipped and noised gradients, counted in ε"),
        "private-gradient": ("not addressed", "the start was computed from private rows outside the accountant"),
        "public-gradient": ("addressed", "the start was computed from a data set that the recipe declares public"),
    }.get(init, ("addressed", f"the start ({init}) reads no private row"))  # type: ignore[return-value]


def _randomness(_: Facts) -> Say:
    return "addressed", (
        "noise and samples come from AES-256 in counter mode under a key of the operating system, never from a seed"
    )


def _floating_point(_: Facts) -> Say:
    return "partly", (
        "each noise number is made of four draws in double precision and rounded once to single, against attacks that "
        "search for the draw; that doubles are no real numbers is not in ε"
    )


def _accountant(_: Facts) -> Say:
    return "addressed", (
        "ε is an upper bound by fedtune's own composition of privacy loss distributions, rounded against us; no limit "
        "theorem is used for it, and what dp-accounting and Opacus find stands beside it"
    )


def _bugs(facts: Facts) -> Say:
    if facts.empirical is None:
        return "partly", "checked by tests and by this report's checks; no empirical audit was made"
    return "addressed", f"an empirical audit with {facts.empirical.canaries:,} canaries was made; its figures are below"


def _bias(_: Facts) -> Say:
    return "not addressed", "clipping and noise cost rare groups more accuracy than common ones; this was not measured"


def _side_channels(_: Facts) -> Say:
    return "not addressed", "times, sizes of messages and who takes part are visible to coordinator and network"


def _trust(facts: Facts) -> Say:
    if facts.plan.trust == "coordinator":
        return "partly", "the coordinator must be trusted with updates before noise; there is no secure aggregation"
    return "addressed", "noise is added on the participant's machine; the coordinator need not be trusted for this ε"


def _access(_: Facts) -> Say:
    return "partly", "rows stay where they are, under their owner's access control, which this report knows nothing of"


def _collection(_: Facts) -> Say:
    return "not addressed", "how the rows were collected, and whose consent covers this use, is outside of the run"


HAZARDS: Mapping[str, tuple[Level, Callable[[Facts], Say]]] = MappingProxyType(
    {
        "ε without meaning": ("promise", _size),
        "δ too large": ("promise", _delta),
        "a unit smaller than a person": ("promise", _unit),
        "a neighbouring relation left unsaid": ("promise", _relation),
        "composition forgotten": ("promise", _composition),
        "other runs on the same data": ("promise", _other_runs),
        "sensitivity assumed": ("computation", _sensitivity),
        "parameters taken from the data": ("computation", _from_the_data),
        "tuning on private data": ("computation", _tuning),
        "a sample unlike the accounted one": ("computation", _sampling),
        "division by a private count": ("computation", _divisor),
        "outputs beside the main one": ("computation", _outputs),
        "a start from private data": ("computation", _start),
        "predictable randomness": ("computation", _randomness),
        "floating-point noise": ("computation", _floating_point),
        "an accountant that is no bound": ("computation", _accountant),
        "errors in the program": ("computation", _bugs),
        "bias and loss of accuracy": ("computation", _bias),
        "side channels": ("computation", _side_channels),
        "whom one must trust": ("base", _trust),
        "access to the data": ("base", _access),
        "collection of the data": ("base", _collection),
    }
)
"""By name, in the order of the report."""
