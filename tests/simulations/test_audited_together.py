"""The private step of clients that share passes, broken on purpose: `fedtune audit run` goes through it and says so."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from fedtune.audit.checks.faults import NoNoise, ReusedNoise
from fedtune.cohort import private_lot, private_step
from fedtune.privacy.clipping import Gradients, clipped_sum
from fedtune.state import State
from fedtune.training.private_mechanism import Mechanism
from simulations.audit.examples import ExampleCanaries
from simulations.audit.run import Prepared, run_audit
from tests.federation import recipe_for
from tests.worlds import write_rows

LINES = (
    'privacy.unit="example"',
    "privacy.delta=1e-5",
    "privacy.noise_multiplier=2.0",
    "privacy.sampling_rate=0.3",
    "privacy.clip=0.1",
    "training.steps=1",
    "federation.rounds=1",
    "data.partition.clients=9",
)


@pytest.fixture
def prepared(tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """Nine clients in lots of five and four."""
    monkeypatch.setattr("simulations.groups.cores", lambda: 2)
    monkeypatch.setattr("server.run.draw_plots", lambda _: {})
    rows = write_rows(tmp_path / "rows.jsonl", 84)
    return Prepared.of(recipe_for(tiny_bert_folder, rows, tmp_path / "runs", *LINES), 6)


def test_a_sound_step_passes_and_is_taken_by_lots_as_a_simulation_hands_them_out(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    lots: list[list[str]] = []
    real = private_step.train_private_lot

    def noted(works: Any, lot: Any) -> Any:
        lots.append([share.client for share in lot])
        return real(works, lot)

    monkeypatch.setattr(private_step, "train_private_lot", noted)
    result, _ = run_audit(prepared)
    assert all(check.p_value > 1e-7 if check.p_value is not None else check.holds for check in result.checks)
    assert not any(claim.refuted for claim in result.claims)
    assert {"noise scale", "fresh noise", "sample overlap", "shared sums", "neighbours"} <= {
        c.name for c in result.checks
    }
    assert isinstance(prepared.canaries, ExampleCanaries)
    probed, names = prepared.canaries.lot(), prepared.canaries.names
    assert [len(lot) for lot in lots[:2]] == [5, 4]
    assert sorted(lots[0] + lots[1]) == sorted(names)
    assert lots[2:]
    assert {tuple(lot) for lot in lots[2:]} == {tuple(probed.rows)}
    assert names.index(next(iter(probed.rows))) == max(0, min(names.index(probed.host) - 2, 4))


class Unclipped(Mechanism):
    """Adds gradients up as they are."""

    def clipped(self, gradients: Gradients) -> State:
        return {name: tensor.double().sum(dim=0) for name, tensor in gradients.items()}


class ClippedTogether(Mechanism):
    """Clips what a client's rows bring as one: no row by itself."""

    def clipped(self, gradients: Gradients) -> State:
        return clipped_sum({n: t.sum(dim=0, keepdim=True) for n, t in gradients.items()}, self.clip, self.clipping)


def as_one(kind: type[Mechanism]) -> Callable[[Mechanism], Mechanism]:
    return lambda sound: kind(**{field.name: getattr(sound, field.name) for field in fields(sound)})


def one_too_many(items: Iterable[Any], key: Callable[[Any], int]) -> Iterator[tuple[int, list[Any]]]:
    """Each client's rows in a pass, and the first of the next client's."""
    for client, own in groupby(items, key):
        yield client, [*own, None]


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (as_one(Unclipped), {"clip", "shared sums"}),
        (as_one(ClippedTogether), {"shared sums"}),
        (lambda sound: replace(sound, noise=NoNoise()), {"noise scale"}),
        (lambda sound: replace(sound, noise=ReusedNoise()), {"fresh noise"}),
        (None, {"shared sums", "neighbours"}),
    ],
    ids=["unclipped", "clipped together", "noise left out", "noise shared", "a row in a neighbour's sum"],
)
def test_a_fault_of_shared_passes_alone_fails_the_audit(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, fault: Any, seen: set[str]
) -> None:
    """Clients that take their steps alone are as sound as ever."""
    if fault is None:
        monkeypatch.setattr(private_lot, "groupby", one_too_many)
    else:
        works = private_step.PrivateWorks
        monkeypatch.setattr(private_step, "PrivateWorks", lambda made, sound: works(made, fault(sound)))
    result, _ = run_audit(prepared)
    assert not result.passed
    assert seen <= {check.name for check in result.checks if not check.holds}
