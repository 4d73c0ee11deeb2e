"""Small ledgers for tests: a recipe whose noise is settled, and bodies that keep the order."""

import hashlib
import json
from pathlib import Path

from fedtune.audit.ledger import AbortBody, CloseBody, CommitBody, LedgerWriter, OpenBody, ReserveBody
from fedtune.audit.ledger.entry import leaves_of
from fedtune.audit.ledger.merkle import root
from fedtune.audit.ledger.pseudonym import RunSecret
from fedtune.privacy.plan import Plan, plan_of
from fedtune.recipe import Recipe

RUN_ID = "0123456789abcdef" * 2


def private_recipe(**privacy) -> Recipe:
    """DP-SGD with a given noise, one step a round."""
    section = {"unit": "example", "delta": 1e-5, "noise_multiplier": 2.0, "sampling_rate": 0.25} | privacy
    values = {
        "model": {"name": "m", "labels": ["a", "b"]},
        "training": {"steps": 1},
        "aggregation": {"weights": "uniform"},
        "federation": {"rounds": 3},
        "privacy": section,
    }
    return Recipe.model_validate_json(json.dumps(values))


def a_plan(recipe: Recipe) -> Plan:
    """The plan of a private recipe."""
    plan = plan_of(recipe)
    assert plan is not None
    return plan


def opening(writer: LedgerWriter, recipe: Recipe) -> OpenBody:
    """The first entry of a ledger of `recipe`."""
    return OpenBody(
        run=RUN_ID,
        created="2026-01-02T03:04:05+00:00",
        recipe=recipe.model_dump(mode="json"),
        recipe_fingerprint=recipe.fingerprint(),
        plan=a_plan(recipe).as_json(),
        versions={"fedtune": "0"},
        base_model_fingerprint="ab",
        public_key=writer.public_key,
    )


def reserve(round_: int, plan: Plan, names=("a", "b"), what="train") -> ReserveBody:
    """A reservation of the plan's own events for these names."""
    wanted = {"train": plan.round_events, "evaluate": plan.evaluation_events}
    pseudonyms = tuple(sorted(hashlib.sha256(name.encode()).hexdigest()[:32] for name in names))
    return ReserveBody(round=round_, what=what, events=wanted.get(what, ()), participants=pseudonyms)


def commit(writer: LedgerWriter) -> CommitBody:
    """What commits the open reservation, everybody in it `ok`."""
    entry, body = writer.story.reservation()
    outcomes = dict.fromkeys(body.participants, "ok")
    digest = root(leaves_of(entry, outcomes)).hex()
    return CommitBody(round=body.round, what=body.what, outcomes=outcomes, state_digest="cd" * 32, root=digest)


def abort(writer: LedgerWriter, reason: str = "too-few-replies") -> AbortBody:
    """What aborts the open reservation."""
    entry, body = writer.story.reservation()
    return AbortBody(round=body.round, what=body.what, reason=reason, root=root(leaves_of(entry, {})).hex())


def fill(folder: Path, *, rounds: int = 2, close: bool = True, recipe: Recipe | None = None) -> LedgerWriter:
    """A ledger of some committed rounds, the second one repeated after an abort."""
    recipe = recipe or private_recipe()
    plan = a_plan(recipe)
    RunSecret.of(folder)
    writer = LedgerWriter.of(folder)
    writer.append(opening(writer, recipe))
    for round_ in range(1, rounds + 1):
        if round_ == 2:
            writer.append(reserve(round_, plan))
            writer.append(abort(writer))
        writer.append(reserve(round_, plan))
        writer.append(commit(writer))
    if close:
        writer.append(CloseBody(rounds=rounds, adapter_digest="ef" * 32))
    return writer
