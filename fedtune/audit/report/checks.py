"""Does what the ledger charged agree with what its plan promised? Each question with its answer and the exceptions."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fedtune.audit.ledger.verify import check_plan, check_separation
from fedtune.audit.report.history import Charge, History
from fedtune.audit.result import AuditResult
from fedtune.errors import LedgerBroken, PrivacyError
from fedtune.privacy.plan import MARGIN, Plan, plan_of
from fedtune.recipe import Recipe
from fedtune.recipe.rules import broken_rules

SHOWN = 5
"""Exceptions that are written out; the others are counted."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question about the run."""

    id: str
    question: str
    exceptions: tuple[str, ...]
    """What speaks against it, one sentence each."""

    @property
    def holds(self) -> bool:
        """Was nothing found against it?"""
        return not self.exceptions

    @property
    def found(self) -> str:
        """The exceptions in one line."""
        more = len(self.exceptions) - SHOWN
        return "; ".join(self.exceptions[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def run_checks(
    history: History, plan: Plan, epsilon: float | None, planned: float | None, measured: AuditResult | None
) -> tuple[Check, ...]:
    """Every check, in a fixed order.

    `epsilon` is the most that anybody has been charged, `planned` what the plan comes to; None for no finite one.
    """
    checks = [Check(id_, question, tuple(find(history, plan))) for id_, (question, find) in CHECKS.items()]
    spent = tuple(_overspent(history.recipe.privacy.epsilon, epsilon))
    checks.append(Check("budget", "Is no more spent than the recipe allows?", spent))
    if measured is not None:
        against = tuple(_against(history, planned, measured))
        checks.append(Check("measured", "Does the empirical audit leave the claim standing?", against))
    return tuple(checks)


def promised_plan(history: History) -> Plan:
    """The plan of the ledger's own recipe; PrivacyError where the recipe promises nothing."""
    plan = plan_of(history.recipe)
    if plan is None:
        raise PrivacyError(
            'the run promised no privacy (privacy.unit is "none"), so there is nothing to report; set privacy.unit'
        )
    return plan


def _overspent(budget: float | None, epsilon: float | None) -> Iterator[str]:
    if epsilon is None:
        yield "what was spent has no finite ε"
    elif budget is not None and epsilon > budget * (1 + MARGIN):
        yield f"ε = {epsilon:.6g} is more than {budget:.6g}"


def _against(history: History, planned: float | None, measured: AuditResult) -> Iterator[str]:
    """What an empirical audit found, and what shows it to be about something else."""
    yield from measured.against
    if measured.recipe_fingerprint != history.opened.recipe_fingerprint:
        yield f"the audit is of another recipe ({measured.recipe_fingerprint})"
    elif planned is None or abs(measured.claimed_epsilon - planned) > 1e-3 * planned:
        yield f"the audit takes ε = {measured.claimed_epsilon:.6g} for the claim, and the plan comes to {planned}"


def _recipe_is_sound(history: History, _: Plan) -> Iterator[str]:
    # A whole dump sets every key; what is a default again counts as not given.
    given = Recipe.model_validate(history.recipe.model_dump(exclude_defaults=True))
    yield from (problem.sentence for problem in broken_rules(given))


def _ledger_is_true_to_its_plan(history: History, _: Plan) -> Iterator[str]:
    try:
        check_plan(history.ledger)
    except LedgerBroken as error:
        yield _anywhere(error, history)


def _fingerprint_is_the_recipe_s(history: History, _: Plan) -> Iterator[str]:
    said, computed = history.opened.recipe_fingerprint, history.recipe.fingerprint()
    if said != computed:
        yield f"the ledger names {said}, and its recipe has {computed}"


def _run_is_charged_once(history: History, plan: Plan) -> Iterator[str]:
    """What is released as a whole must be reserved before the first round."""
    needed = {"run": plan.run_events, "start": plan.start_events}
    first = min((charge.seq for charge in history.of("train")), default=math.inf)
    for what, events in needed.items():
        if events and history.of("train") and not any(charge.seq < first for charge in history.of(what)):
            yield f"no {what} was charged before the first round"


def _everybody_was_charged(history: History, plan: Plan) -> Iterator[str]:
    """Who pays for itself is named; that no result is of another, reading the ledger has checked."""
    for charge in history.charges:
        if charge.events and not charge.participants and plan.unit == "example" and charge.what != "run":
            yield f"entry {charge.seq} charges nobody by name"


def _samples_were_drawn(history: History, plan: Plan) -> Iterator[str]:
    """Amplification by sampling of clients is claimed only where the coordinator drew the sample, at that rate."""
    if plan.sampler != "poisson-clients" or plan.sampling_rate >= 1:
        return
    for charge in history.of("train"):
        drawn = charge.drawn
        if drawn is None:
            yield f"round {charge.round} holds no draw"
        elif drawn.sampling_rate != plan.sampling_rate or drawn.population != history.recipe.privacy.population:
            yield f"round {charge.round} drew {drawn.sampling_rate:g} of {drawn.population}"
        elif not drawn.commitments:
            yield f"round {charge.round} holds no commitment to its draw"


def _population_suffices(history: History, _: Plan) -> Iterator[str]:
    population = history.recipe.privacy.population
    seen = {name for charge in history.charges for name in _seen(charge)}
    if population and len(seen) > population:
        yield f"{len(seen)} clients took part, and the population is {population}"


def _rounds_are_separated(history: History, plan: Plan) -> Iterator[str]:
    try:
        check_separation(history.ledger, plan)
    except LedgerBroken as error:
        yield _anywhere(error, history)


def _anywhere(error: LedgerBroken, history: History) -> str:
    """Without where the ledger lies, which is no matter of the run and differs from reader to reader."""
    return str(error).replace(str(history.ledger.path), "the ledger")


def _seen(charge: Charge) -> set[str]:
    """Everybody whom a charge names."""
    return {*charge.participants, *charge.outcomes, *(charge.drawn.asked if charge.drawn else ())}


Find = Callable[[History, Plan], Iterator[str]]

CHECKS: Mapping[str, tuple[str, Find]] = MappingProxyType(
    {
        "recipe": ("Does the recipe break no rule that protects the promise?", _recipe_is_sound),
        "plan": ("Is the plan the recipe's, and each charge the plan's?", _ledger_is_true_to_its_plan),
        "fingerprint": ("Does the recipe have the fingerprint that is named?", _fingerprint_is_the_recipe_s),
        "ahead": ("Is what the run releases as a whole charged before its first round?", _run_is_charged_once),
        "charged": ("Was everybody charged whose result counts?", _everybody_was_charged),
        "drawn": ("Is amplification claimed only for samples that the coordinator drew?", _samples_were_drawn),
        "population": ("Are there no more clients than the population?", _population_suffices),
        "separation": ("Are a client's rounds as far apart as promised?", _rounds_are_separated),
    }
)
"""The questions, by the name that they have in the report."""
