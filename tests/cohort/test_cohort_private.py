"""Private clients that share passes end where each ends alone with the same rows and noise, whatever trains."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedtune.adapters.slots import mask
from fedtune.cohort.private_step import CohortPrivateStep
from fedtune.state import digest
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.private import PrivateStep
from fedtune.training.resident import Resident
from tests.cohort.private_cohorts import Drawn, client, home_of, in_turns, together
from tests.training.parts import answer_rows
from tests.training.private_parts import ADAPTERS, Given, NoNoise, SeededNoise, distance

CLOSE = 1e-6
COUNTS = (9, 5, 1)
DRAWN: Drawn = ([[0, 2, 3, 5, 8], [], [1]], [[], [0, 1, 2, 3, 4], [2]], [[0], [0], []])
"""More than one pass, none at all, every row; a client with one row."""
NOISE = [SeededNoise, SeededNoise, SeededNoise]


def cohort_of(home: Resident, family: str, **fields: Any) -> list[Assignment]:
    return [client(home, family, number, rows, **fields) for number, rows in enumerate(COUNTS)]


def compare(home: Resident, cohort: list[Assignment], drawn: Drawn = DRAWN, **options: Any) -> list[LocalResult]:
    """Each number of each client within 1e-6 of what it is alone; the clients moved much further than that."""
    shared = together(home, cohort, drawn, [SeededNoise(n) for n in range(len(cohort))], **options)
    expected = in_turns(home, cohort, drawn, [SeededNoise(n) for n in range(len(cohort))])
    for share, one, other in zip(cohort, shared, expected, strict=True):
        assert (one.client, one.examples, one.rates, one.metrics) == (share.client, 1, other.rates, {})
        assert one.state.keys() == other.state.keys()
        assert distance(one.state, other.state) <= CLOSE
        assert distance(one.state, share.state) > 1e-3
    return shared


@pytest.mark.parametrize(
    ("family", "kind", "options"),
    [
        ("bert", "lora", {"optimizer": "sgd", "lr": 0.5, "proximal": 0.5}),
        ("bert", "ravan", {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.1, "head_lr": 1e-2}),
        ("bert", "dropping", {"optimizer": "sgd", "lr": 0.5}),
        ("vit", "square", {"optimizer": "sgd", "lr": 0.5, "momentum": 0.9, "schedule": "linear"}),
        ("vit", "lora", {"optimizer": "adamw", "lr": 3e-3}),
        ("llama", "ravan", {"optimizer": "sgd", "lr": 0.5, "warmup_fraction": 0.4}),
        ("bert", "prompt", {"optimizer": "sgd", "lr": 0.5, "proximal": 0.5}),
        ("vit", "prompt", {"optimizer": "adamw", "lr": 3e-3}),
        ("llama", "prompt", {"optimizer": "sgd", "lr": 0.5, "momentum": 0.9}),
        ("llama", "ffa", {"optimizer": "adamw", "lr": 3e-3, "proximal": 0.5}),
    ],
)
def test_a_cohort_ends_where_its_clients_end_alone(
    request: pytest.FixtureRequest, family: str, kind: str, options: dict[str, Any]
) -> None:
    home = home_of(request, family, kind, {"clip": 0.5}, steps=3, batch_size=2, accumulate=2, **options)
    compare(home, cohort_of(home, family))


@pytest.mark.parametrize("clipping", ["per-layer", "automatic"])
def test_every_way_of_clipping_is_the_same(request: pytest.FixtureRequest, clipping: str) -> None:
    home = home_of(request, "bert", "square", {"clip": 0.3, "clipping": clipping}, steps=3, optimizer="sgd", lr=0.5)
    compare(home, cohort_of(home, "bert"))


@pytest.mark.parametrize("kind", ["square", "ravan"])
def test_slots_and_what_is_trained_are_each_clients_own(request: pytest.FixtureRequest, kind: str) -> None:
    """Without noise beside: what is left outside of the slots takes nothing of the clip."""
    home = home_of(request, "bert", kind, {"clip": 0.3}, steps=3, optimizer="sgd", lr=0.5, proximal=0.3)
    axes, cohort = home.attached.axes(), cohort_of(home, "bert")
    for number, slots in enumerate([(0,), (0, 2)]):
        state = {name: t * mask(tuple(t.shape), axes[name], slots) for name, t in cohort[number].state.items()}
        cohort[number] = replace(cohort[number], slots=slots, state=state)
    for share, result in zip(cohort, compare(home, cohort), strict=True):
        for name, tensor in result.state.items():
            assert not (tensor * (1 - mask(tuple(tensor.shape), axes[name], share.slots))).any()
    some = tuple(sorted(cohort[0].state)[::2])
    cohort = cohort_of(home, "bert", trained=some)
    for share, result in zip(cohort, compare(home, cohort), strict=True):
        assert all(torch.equal(result.state[name], t) for name, t in share.state.items() if name not in some)


def test_neighbours_order_and_budget_change_no_more_than_the_last_digits(request: pytest.FixtureRequest) -> None:
    """Nobody beside a client, and nothing of whoever is, has a say in what the client ends with."""
    home = home_of(request, "llama", "square", {"clip": 0.5}, steps=3, optimizer="sgd", lr=0.5, batch_size=4)
    cohort = cohort_of(home, "llama")
    first = compare(home, cohort)[0].state

    def again(others: list[Assignment], drawn: Drawn, place: int = 0, **options: Any) -> float:
        noise = [SeededNoise(70 + n) for n in range(len(drawn))]
        noise[place] = SeededNoise(0)
        return distance(together(home, others, drawn, noise, **options)[place].state, first)

    assert again(cohort[::-1], DRAWN[::-1], place=2) <= CLOSE
    assert again(cohort, DRAWN, most_tokens=1) <= CLOSE
    wild = {name: tensor * 1e6 for name, tensor in cohort[1].state.items()}
    other = replace(cohort[1], state=wild, rows=answer_rows(12, seed=77))
    assert again([cohort[0], other], [DRAWN[0], [list(range(12)), [3], []]]) <= CLOSE


def test_what_is_in_memory_at_a_time_changes_nothing(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_of(request, "bert", "square", {"clip": 0.5}, steps=3, optimizer="sgd", lr=0.5, batch_size=4)
    cohort = cohort_of(home, "bert")
    passes: list[int] = []
    monkeypatch.setattr("fedtune.cohort.private_lot.most_copies", lambda _: 2)
    real = CohortPrivateStep.__init__

    def watched(self: CohortPrivateStep, *given: Any, **named: Any) -> None:
        real(self, *given, **named)
        assert self._private is not None
        forward = self._private.works.forward
        logits = forward.logits
        forward.logits = lambda parts: passes.append(len(parts)) or logits(parts)  # type: ignore[method-assign,func-returns-value]

    monkeypatch.setattr(CohortPrivateStep, "__init__", watched)
    compare(home, cohort)
    assert max(passes) == 2


def test_one_client_and_a_model_that_does_not_fit_take_the_steps_of_the_private_step(
    request: pytest.FixtureRequest,
) -> None:
    home = home_of(request, "bert", "square", {}, steps=2)
    cohort = cohort_of(home, "bert")
    drawn = [[0], [2, 3]]
    for case in (home, replace(home, recipe=_with(home, compile=True))):
        step = CohortPrivateStep(case, noise=SeededNoise(5), rows=Given(*drawn))
        expected = next(PrivateStep(home, noise=SeededNoise(5), rows=Given(*drawn)).train(cohort[:1]))
        assert digest(next(step.train(cohort[:1])).state) == digest(expected.state)
        assert (step.turns is None) == (case is home)
    step = CohortPrivateStep(replace(home, recipe=_with(home, compile=True)), noise=NoNoise(), rows=Given(*drawn * 2))
    expected_two = list(PrivateStep(home, noise=NoNoise(), rows=Given(*drawn * 2)).train(cohort[:2]))
    assert [digest(one.state) for one in step.train(cohort[:2])] == [digest(one.state) for one in expected_two]


def _with(home: Resident, **training: Any) -> Any:
    return home.recipe.model_copy(update={"training": home.recipe.training.model_copy(update=training)})


def test_a_model_made_to_drop_numbers_shares_for_nothing_is_dropped_here(request: pytest.FixtureRequest) -> None:
    home = home_of(request, "bert", "lora", {}, steps=1)
    assert home.attached.model.config.hidden_dropout_prob > 0  # type: ignore[union-attr,operator]
    assert ADAPTERS["lora"].dropout == 0
    assert CohortPrivateStep(home).turns is None
