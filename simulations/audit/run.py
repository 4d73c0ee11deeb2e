"""Runs one audited simulation: canaries in, attack, direct tests, and the record of it all."""

import importlib.metadata
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import torch

from client.heads import PassingHeads
from client.work import Workplace
from fedtune import __version__
from fedtune.audit.checks import Finding
from fedtune.audit.claim import tradeoff_of
from fedtune.audit.estimators import Scores, clopper_pearson, curve_p_value, one_run, one_run_fdp
from fedtune.audit.result import (
    FILE,
    Attack,
    AuditResult,
    BoundRecord,
    CheckRecord,
    ClaimRecord,
    EstimateRecord,
)
from fedtune.data.base import Rows
from fedtune.data.table import with_labels
from fedtune.errors import PrivacyError
from fedtune.privacy.accounting import epsilon_of
from fedtune.privacy.plan import Plan, calibrated, plan_of
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.kept import Keep
from fedtune.training.device import choose_device
from fedtune.training.resident import resident
from server.listener import Listener
from simulations.audit.clients import ClientCanaries
from simulations.audit.examples import ExampleCanaries
from simulations.audit.setting import Canaries, Released, Told, audited, untold
from simulations.dealt import Grouped
from simulations.groups import cut_of
from simulations.population import Population
from simulations.simulate import run_with
from simulations.workers import Workers, default_workers

KINDS: Mapping[str, type[ExampleCanaries] | type[ClientCanaries]] = MappingProxyType(
    {"example": ExampleCanaries, "client": ClientCanaries}
)
"""By `privacy.unit`."""
PER_ATTACK = 3
"""Statements that decide: two bounds and the claim's curve."""
FOR_CHECKS = 0.1
"""The share of the error that the direct tests may spend; the statements of the attacks have the rest."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An audit that can begin."""

    recipe: Recipe
    plan: Plan
    canaries: Canaries
    workplace: Workplace
    rows: Rows
    """Of one client, for how long things take."""

    @classmethod
    def of(cls, recipe: Recipe, count: int) -> "Prepared":
        """Load model and rows, toss the coins, choose the canaries; raises FedtuneError."""
        recipe = audited(calibrated(with_labels(recipe)), count)
        plan = plan_of(recipe)
        if plan is None:
            raise PrivacyError("the recipe promises nothing that could be audited")
        population, home = Population.of(recipe), resident(recipe)
        canaries: Canaries = KINDS[plan.unit](recipe, plan, population, home, count)
        keep = Keep(Path(recipe.run.folder) / recipe.run.name / "clients")
        place = Workplace(canaries.data_of, keep=keep, heads=PassingHeads())
        return cls(recipe, plan, canaries, place, population.data(population.names[0]).train)


def run_audit(
    prepared: Prepared,
    *,
    confidence: float = 0.95,
    workers: int | None = 1,
    listener: Listener | None = None,
    told: Told = untold,
) -> tuple[AuditResult, Path]:
    """Run it; returns the record, which is in the run folder as `audit.json` too, and that folder.

    Guarantees: what decides holds together with `confidence`, however many attacks, estimators and direct tests there
    are: a sound run fails with probability 1 - `confidence` at most. Raises FedtuneError.
    """
    started = time.monotonic()
    folder = _simulate(prepared, workers, listener)
    run = RunFolder.open(folder)
    released = Released({r: run.checkpoints.load(str(r)).state for r in run.checkpoints.rounds()})
    result = _conclude(prepared, run.info.id, released, confidence, told, started)
    result.write(folder / FILE)
    return result, folder


def _simulate(prepared: Prepared, workers: int | None, listener: Listener | None) -> Path:
    recipe = prepared.recipe
    count = default_workers(choose_device(recipe.training.device)) if workers is None else workers
    if count > 1:
        torch.set_num_threads(1)
    place, cut = prepared.workplace, cut_of(recipe)
    with Workers(place, count, cut) if count > 1 else nullcontext(Grouped(place, cut)) as answers:
        return run_with(recipe, prepared.canaries.names, prepared.canaries.watch(answers), listener=listener)


def _conclude(
    prepared: Prepared, run: str, released: Released, confidence: float, told: Told, started: float
) -> AuditResult:
    plan, canaries = prepared.plan, prepared.canaries
    scores = {attack: Scores.join(s, canaries.coins) for attack, s in canaries.scores(released, told).items()}
    alpha = (1 - FOR_CHECKS) * (1 - confidence) / (PER_ATTACK * len(scores))
    side = canaries.side(released, plan.delta, confidence)
    return AuditResult(
        run=run,
        recipe_fingerprint=prepared.recipe.fingerprint(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        unit=plan.unit,
        relation=plan.relation,
        delta=plan.delta,
        claimed_epsilon=epsilon_of(plan.planned(), plan.delta),
        canaries=len(canaries.coins),
        inserted=sum(canaries.coins.values()),
        confidence=confidence,
        bounds=(
            *(record for attack, s in scores.items() for record in _bounds(attack, s, plan.delta, alpha, confidence)),
            *(BoundRecord.of(bound, attack) for attack, bound in side.bounds),
        ),
        estimates=tuple(EstimateRecord.of(estimate, attack) for attack, estimate in side.estimates),
        claims=_claims(scores, plan, alpha),
        checks=_checks(canaries.check(released), FOR_CHECKS * (1 - confidence)),
        seconds=time.monotonic() - started,
        versions={"fedtune": __version__, "torch": torch.__version__, "scipy": importlib.metadata.version("scipy")},
    )


def _bounds(attack: Attack, scores: Scores, delta: float, alpha: float, confidence: float) -> list[BoundRecord]:
    found = [
        one_run(scores, delta=delta, confidence=1 - alpha),
        one_run_fdp(scores, delta=delta, confidence=1 - alpha),
        clopper_pearson(scores, delta=delta, confidence=confidence),
    ]
    return [BoundRecord.of(bound, attack) for bound in found]


def _claims(scores: Mapping[Attack, Scores], plan: Plan, alpha: float) -> tuple[ClaimRecord, ...]:
    curve = tradeoff_of(plan.planned())
    p_values = {attack: curve_p_value(s, curve) for attack, s in scores.items()}
    return tuple(ClaimRecord(attack=attack, p_value=p, refuted=p <= alpha) for attack, p in p_values.items())


def _checks(findings: tuple[Finding, ...], alpha: float) -> tuple[CheckRecord, ...]:
    """The direct tests, those of chance each at its share of `alpha`."""
    chances = max(1, sum(f.p_value is not None for f in findings))
    return tuple(
        CheckRecord(
            name=f.name,
            holds=f.holds if f.p_value is None else f.p_value > alpha / chances,
            p_value=f.p_value,
            found=f.found,
        )
        for f in findings
    )
