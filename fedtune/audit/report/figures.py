"""The figures of a report: numbers, names and hashes, each of which the ledger alone gives."""

import dataclasses
from typing import Any

from fedtune.audit.report.facts import Facts
from fedtune.audit.report.history import Charge
from fedtune.audit.report.loss import epsilon_of_all
from fedtune.audit.report.released import released_of
from fedtune.privacy.events import as_json


def figures_of(facts: Facts) -> dict[str, Any]:
    """JSON values by section."""
    return {
        "run": _run(facts),
        "promise": _promise(facts),
        "spent": _spent(facts),
        "composition": _composition(facts),
        "rounds": _rounds(facts),
        "sampling": _sampling(facts),
        "released": [dataclasses.asdict(row) for row in released_of(facts)],
        "checks": [{"id": check.id, "holds": check.holds} for check in facts.checks],
        "empirical": _empirical(facts),
        "ledger": _ledger(facts),
    }


def _run(facts: Facts) -> dict[str, Any]:
    opened, recipe, closed = facts.history.opened, facts.recipe, facts.history.closed
    return {
        "id": opened.run,
        "name": recipe.run.name,
        "created": opened.created,
        "finished": closed is not None,
        "model": recipe.model.name,
        "task": recipe.model.task,
        "method": recipe.method,
        "adapter": recipe.adapter.form,
        "rank": recipe.adapter.rank,
        "recipe_fingerprint": opened.recipe_fingerprint,
        "base_model_fingerprint": opened.base_model_fingerprint,
        "adapter_digest": closed.adapter_digest if closed else "",
        "versions": opened.versions,
    }


def _promise(facts: Facts) -> dict[str, Any]:
    plan, section = facts.plan, facts.recipe.privacy
    return {
        "unit": plan.unit,
        "relation": plan.relation,
        "epsilon": section.epsilon,
        "planned_epsilon": facts.planned,
        "delta": plan.delta,
        "clip": plan.clip,
        "clipping": section.clipping,
        "noise_multiplier": plan.noise_multiplier,
        "noise_by": plan.trust,
        "sampler": plan.sampler,
        "sampling_rate": plan.sampling_rate,
        "population": section.population,
        "steps": plan.steps,
        "rounds": plan.rounds,
        "bands": plan.bands,
        "separation": plan.separation,
    }


def _spent(facts: Facts) -> dict[str, Any]:
    loss = facts.loss
    return {
        "epsilon": loss.epsilon,
        "delta": loss.delta,
        "beside": dict(loss.beside),
        "gdp_mu": loss.mu,
        "curve": [{"delta": delta, "epsilon": epsilon} for delta, epsilon in loss.curve],
        "attacks": [dataclasses.asdict(power) for power in loss.powers],
        "advantage": loss.advantage,
    }


def _composition(facts: Facts) -> dict[str, Any]:
    """Each different sum of events with its ε, and whose it is, where that may be said."""
    compositions = facts.spending.compositions()
    order = sorted(compositions, key=lambda events: [event.model_dump_json() for event in events])
    number = {events: place for place, events in enumerate(order)}
    named = facts.spending.participants if facts.names_participants else ()
    return {
        "groups": [
            {
                "events": as_json(events),
                "participants": compositions[events],
                "epsilon": epsilon_of_all(events, facts.plan.delta),
            }
            for events in order
        ],
        "participants": [
            {
                "pseudonym": p.pseudonym,
                "group": number[p.events],
                "asked": p.asked,
                "counted": p.counted,
                "aborted": p.aborted,
            }
            for p in named
        ],
        "named": facts.names_participants,
    }


def _rounds(facts: Facts) -> dict[str, Any]:
    charges = facts.history.charges
    return {
        "charged": len(facts.history.of("train")),
        "committed": facts.committed,
        "charges": len(charges),
        "lost": [_lost(charge) for charge in charges if charge.ending != "committed"],
        "released": [
            {"round": c.round, "state_digest": c.state_digest} for c in facts.history.of("train", "committed")
        ],
    }


def _lost(charge: Charge) -> dict[str, Any]:
    return {
        "entry": charge.seq,
        "round": charge.round,
        "what": charge.what,
        "ending": charge.ending,
        "reason": charge.reason,
        "events": as_json(charge.events),
    }


def _sampling(facts: Facts) -> dict[str, Any]:
    draws = [charge for charge in facts.history.charges if charge.drawn is not None]
    return {
        "sampler": facts.plan.sampler,
        "rate": facts.plan.sampling_rate,
        "drawn_by": {"poisson-rows": "participant", "poisson-clients": "coordinator"}.get(facts.plan.sampler, ""),
        "draws": [{"entry": c.seq, "round": c.round, **c.drawn.model_dump(mode="json")} for c in draws if c.drawn],
    }


def _empirical(facts: Facts) -> dict[str, Any] | None:
    found = facts.empirical
    if found is None:
        return None
    return {
        "lower_bound": found.lower_bound,
        "passed": found.passed,
        "of_this_run": found.run == facts.history.opened.run,
        "record": found.model_dump(mode="json"),
    }


def _ledger(facts: Facts) -> dict[str, Any]:
    ledger = facts.history.ledger
    return {
        "entries": len(ledger.entries),
        "head": ledger.head.hash,
        "public_key": ledger.public_key,
        "last_entry_at": ledger.entries[-1].time,
        "link": ledger.opened.link,
    }
