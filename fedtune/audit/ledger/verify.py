"""Is a ledger whole, in order, true to its plan, and the one that somebody else remembers?"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from fedtune.audit.ledger.bodies import ReserveBody
from fedtune.audit.ledger.read import Ledger, position_of
from fedtune.errors import LedgerBroken, PrivacyError
from fedtune.privacy.events import as_json, grouped
from fedtune.privacy.plan import Plan, plan_of, separated_participations
from fedtune.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about a ledger that is not broken."""

    plan: Plan
    heads: tuple[int, ...]
    """The entries that the given heads are."""
    open_ends: tuple[str, ...]
    """What nobody can tell from this file and what was given with it, one sentence each."""


def verify(ledger: Ledger, *, public_key: str = "", heads: Sequence[str] = ()) -> Verdict:
    """Check what `read_ledger` could not: the signer against `public_key`, the end against `heads`, and the plan.

    `heads` are hashes that others keep: each must be an entry's. Raises LedgerBroken.
    """
    if public_key and ledger.public_key != public_key:
        raise LedgerBroken(f"{ledger.path} is signed by another key than the given one: {ledger.public_key}")
    found = [(head, position_of(ledger, head)) for head in heads]
    for head, position in found:
        if position is None:
            raise LedgerBroken(
                f"{ledger.path} holds no entry {head}: entries were cut off at its end, or it is another history"
            )
    plan = check_plan(ledger)
    check_separation(ledger, plan)
    numbers = tuple(position for _, position in found if position is not None)
    return Verdict(plan, numbers, tuple(_open_ends(ledger, public_key, numbers)))


def check_plan(ledger: Ledger) -> Plan:
    """The plan that the ledger's own recipe comes to; raises LedgerBroken where it, or a reservation, says another."""
    plan = _plan(ledger)
    if json.loads(json.dumps(plan.as_json())) != ledger.opened.plan:
        raise LedgerBroken(
            f"entry 0 of {ledger.path}: its plan is not what its recipe comes to (or another fedtune wrote it)"
        )
    wanted = {
        "start": plan.start_events,
        "run": plan.run_events,
        "train": plan.round_events,
        "evaluate": plan.evaluation_events,
    }
    for entry in ledger.entries:
        body = entry.body
        if isinstance(body, ReserveBody) and grouped(body.events) != grouped(wanted[body.what]):
            raise LedgerBroken(
                f"entry {entry.seq} of {ledger.path}: it reserves {as_json(body.events)} for {body.what}, "
                f"and the plan says {as_json(wanted[body.what])}"
            )
    return plan


def check_separation(ledger: Ledger, plan: Plan) -> None:
    """Raise LedgerBroken where, under banded noise, somebody is in rounds too close to each other, or in too many.

    Two rounds of one client lie `plan.separation` apart or more, and it is in no more than the plan's noise was chosen
    for. What counts are reservations, not round numbers: a round that was repeated is two.
    """
    if plan.sampler != "separated":
        return
    most = separated_participations(plan.rounds, plan.separation)
    last: dict[str, int] = {}
    times: Counter[str] = Counter()
    rounds = [(e, e.body) for e in ledger.entries if isinstance(e.body, ReserveBody) and e.body.what == "train"]
    for row, (entry, body) in enumerate(rounds):
        where = f"entry {entry.seq} of {ledger.path}"
        if body.drawn is None:
            raise LedgerBroken(f"{where}: it does not say who was asked, so nobody can tell how far rounds lie apart")
        for name in body.drawn.asked:
            if row - last.get(name, -plan.separation) < plan.separation:
                raise LedgerBroken(f"{where}: {name} is in a round again within {plan.separation} rounds")
            last[name] = row
            times[name] += 1
            if times[name] > most:
                raise LedgerBroken(f"{where}: {name} is in more rounds than the {most} that the noise was chosen for")


def _plan(ledger: Ledger) -> Plan:
    try:
        recipe = Recipe.model_validate_json(json.dumps(ledger.opened.recipe))
        plan = plan_of(recipe)
    except (ValidationError, PrivacyError) as error:
        raise LedgerBroken(
            f"entry 0 of {ledger.path}: its recipe is none of this version; verify it with the fedtune that wrote it"
        ) from error
    if plan is None:
        raise LedgerBroken(f"entry 0 of {ledger.path}: its recipe promises no privacy, so there is nothing to keep")
    return plan


def _open_ends(ledger: Ledger, public_key: str, heads: Sequence[int]) -> list[str]:
    sentences: list[str] = []
    last = ledger.head.seq
    if not public_key:
        sentences.append("whose key signed it: compare it with the one that the coordinator gave out, by --public-key")
    if last not in heads:
        after = f"after entry {max(heads)}" if heads else "at its end"
        sentences.append(
            f"whether entries are missing {after}: compare with a head that a client keeps, by --head"
            + (
                ""
                if ledger.closed
                else "; it does not end with `close`, so the run goes on, was killed, or was cut off"
            )
        )
    return sentences
