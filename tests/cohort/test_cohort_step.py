"""Clients that share passes end where they end alone: whatever trains, whoever is beside them, however it is packed."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.adapters.slots import mask
from fedtune.cohort.columns import Columns
from fedtune.cohort.lot import train_lot
from fedtune.cohort.stacks import Stacks
from fedtune.cohort.step import CohortStep
from fedtune.errors import AdapterError, TrainingError
from fedtune.recipe import TrainingSection
from fedtune.state import State, digest
from fedtune.training.base import Assignment
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep
from tests.cohort.cohorts import build, client, distance, with_training

CLOSE = 1e-6
HOMES = {"bert": "lora", "vit": "square", "llama": "ravan", "gpt2": "square"}
PROMPTED = ("bert", "vit", "gpt2")

optimisers = st.one_of(
    st.fixed_dictionaries(
        {"optimizer": st.just("adamw"), "lr": st.just(3e-3), "weight_decay": st.sampled_from([0, 0.1])}
    ),
    st.fixed_dictionaries({"optimizer": st.just("sgd"), "lr": st.just(0.1), "momentum": st.sampled_from([0, 0.9])}),
)
trainings = st.builds(
    dict.__or__,
    optimisers,
    st.fixed_dictionaries(
        {
            "batch_size": st.integers(1, 3),
            "accumulate": st.integers(1, 2),
            "epochs": st.integers(1, 2),
            "schedule": st.sampled_from(["constant", "linear", "cosine"]),
            "warmup_fraction": st.sampled_from([0.0, 0.4]),
            "max_grad_norm": st.sampled_from([None, 0.3]),
            "head_lr": st.sampled_from([None, 1e-2]),
            "proximal": st.sampled_from([0.0, 0.5]),
        }
    ),
)


@pytest.fixture(scope="module")
def homes(request: pytest.FixtureRequest) -> dict[str, Resident]:
    found = {family: build(request, family, kind) for family, kind in HOMES.items()}
    return found | {f"prompted {family}": build(request, family, "prompt") for family in PROMPTED}


def in_slots(home: Resident, state: State, slots: tuple[int, ...]) -> State:
    axes = home.attached.axes()
    return {name: t * mask(tuple(t.shape), axes[name], slots) for name, t in state.items()}


@st.composite
def clients(draw: st.DrawFn, home: Resident, family: str) -> list[Assignment]:
    drawn = []
    for number in range(draw(st.integers(2, 4))):
        one = client(home, family, number, draw(st.integers(0 if number else 1, 5)))
        what = draw(st.sampled_from(["plain", "slots", "some", "corrected", "nothing"]))
        if what == "slots":
            slots = (1,) if home.attached.slots == 2 else (0, 2)
            one = replace(one, slots=slots, state=in_slots(home, one.state, slots))
        elif what == "some":
            one = replace(one, trained=tuple(sorted(one.state)[::2]))
        elif what == "corrected":
            one = replace(one, correction={name: torch.ones_like(t) / 9 for name, t in one.state.items()})
        elif what == "nothing":
            one = replace(one, trained=())
        drawn.append(one)
    return drawn


@settings(max_examples=5)
@given(data=st.data(), training=trainings, most=st.sampled_from([1, 25, 10_000]))
@pytest.mark.parametrize("name", [*HOMES, *(f"prompted {family}" for family in PROMPTED)])
def test_a_cohort_ends_where_its_clients_end_alone(
    name: str, homes: dict[str, Resident], data: st.DataObject, training: dict[str, Any], most: int
) -> None:
    home = with_training(homes[name], **training)
    cohort = data.draw(clients(home, name.rpartition(" ")[2]))
    step = CohortStep(home, most_tokens=most)
    assert step.turns is None
    assert distance(list(step.train(cohort)), list(SequentialStep(home).train(cohort))) <= CLOSE


def five(home: Resident) -> list[Assignment]:
    return [client(home, "bert", number, 3 + number) for number in range(5)]


def test_neighbours_order_and_budget_change_no_more_than_the_last_digits(homes: dict[str, Resident]) -> None:
    home = with_training(homes["bert"], batch_size=2, lr=1e-2)
    cohort = five(home)
    together = list(CohortStep(home).train(cohort))
    backwards = list(CohortStep(home).train(cohort[::-1]))[::-1]
    assert distance(together, backwards) <= CLOSE
    assert distance(together[:2], list(CohortStep(home).train(cohort[:2]))) <= CLOSE
    assert distance(together, list(CohortStep(home, most_tokens=7).train(cohort))) <= CLOSE
    again = list(CohortStep(home).train(cohort))
    assert [digest(one.state) for one in together] == [digest(one.state) for one in again]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clients were in each lot that took the shared way."""
    sizes: list[int] = []
    monkeypatch.setattr(
        "fedtune.cohort.step.train_lot", lambda works, lot: sizes.append(len(lot)) or train_lot(works, lot)
    )
    return sizes


@pytest.mark.parametrize("name", [*HOMES, *(f"prompted {family}" for family in PROMPTED)])
def test_a_client_alone_ends_where_the_models_own_passes_end(
    name: str, homes: dict[str, Resident], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = watched(monkeypatch)
    home = with_training(homes[name], batch_size=2, accumulate=2, lr=1e-2)
    one = [client(home, name.rpartition(" ")[2], 1, 5)]
    assert distance(list(CohortStep(home).train(one)), list(SequentialStep(home).train(one))) <= CLOSE
    assert sizes == [1]


def test_a_client_alone_is_trained_bit_for_bit_as_it_always_was_where_nothing_is_saved(
    homes: dict[str, Resident], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedtune.cohort.packed.why_not_pruned", lambda *_: "the test says so")
    sizes = watched(monkeypatch)
    home = with_training(homes["bert"], batch_size=2)
    (alone,), (expected,) = (list(step(home).train(five(home)[:1])) for step in (CohortStep, SequentialStep))
    assert digest(alone.state) == digest(expected.state)
    assert sizes == []


def test_a_client_alone_without_a_step_hands_back_what_it_was_given(homes: dict[str, Resident]) -> None:
    home = homes["bert"]
    for one in (client(home, "bert", 1, 0), replace(client(home, "bert", 1, 3), trained=())):
        (left,) = CohortStep(home).train([one])
        assert (digest(left.state), left.metrics["steps"]) == (digest(one.state), 0.0)


QUERY = ("bert.encoder.layer.1.attention.self.query",)


def test_rows_of_a_client_alone_are_computed_once_and_make_room_where_memory_ends(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = with_training(build(request, "bert", "lora", targets=QUERY), batch_size=2)
    step, cohort = CohortStep(home), five(home)[4:]
    assert step._works is not None
    (first,) = step.train(cohort)
    cache = step._works.forward._prefix.cache  # type: ignore[attr-defined]
    missing = cache.counts.missing
    (again,) = step.train(cohort)
    assert digest(again.state) == digest(first.state)
    assert (cache.counts.missing, len(cache)) == (missing, len(cohort[0].rows))
    expected = list(SequentialStep(home).train(cohort))
    assert distance([first], expected) <= CLOSE

    monkeypatch.setattr(Stacks, "collect", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("too large")))
    assert distance(list(step.train(cohort)), expected) == 0.0
    assert (len(cache), cache.bytes) == (0, 0)
    assert "a client takes the model's own passes" in caplog.text


def test_nothing_of_the_model_is_changed(homes: dict[str, Resident]) -> None:
    home = with_training(homes["bert"], lr=0.1)
    frozen = {n: t for n, t in home.loaded.model.state_dict().items() if "lora" not in n and "classifier" not in n}
    before, modules = digest(frozen), dict(home.attached.model.named_modules())
    random = torch.get_rng_state()
    list(CohortStep(home).train(five(home)))
    assert digest(frozen) == before
    assert dict(home.attached.model.named_modules()) == modules
    assert not home.attached.model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in home.attached.parameters().values())


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_who_diverges_is_named_and_touches_nobody(homes: dict[str, Resident], poison: float) -> None:
    home = with_training(homes["bert"], batch_size=2)
    cohort = five(home)
    expected = list(SequentialStep(home).train([*cohort[:2], *cohort[3:]]))
    bad = {name: tensor * 0 + poison for name, tensor in cohort[2].state.items()}
    results = CohortStep(home).train([*cohort[:2], replace(cohort[2], state=bad), *cohort[3:]])
    first = [next(results), next(results)]
    with pytest.raises(TrainingError, match=r"^c2: .* not finite"):
        next(results)
    assert distance([*first, *results], expected) <= CLOSE


def test_whose_state_does_not_fit_is_told_so_and_the_others_are_trained(homes: dict[str, Resident]) -> None:
    home = with_training(homes["bert"], batch_size=2)
    cohort = five(home)[:3]
    results = CohortStep(home).train([cohort[0], replace(cohort[1], state={}), cohort[2]])
    first = next(results)
    with pytest.raises(AdapterError, match="lacks"):
        next(results)
    assert distance([first, next(results)], list(SequentialStep(home).train(cohort[::2]))) == 0.0


def test_a_shift_of_the_base_is_each_clients_own(homes: dict[str, Resident]) -> None:
    home = with_training(homes["bert"], batch_size=2)
    target = home.attached.targets()[0]
    out, in_ = home.attached.target_shapes()[target]
    change = NO_SHIFT.then({f"{target}.D": torch.ones(out, in_) / 10})
    assert isinstance(change, Shift)
    cohort = [replace(one, shift=change) if number % 2 else one for number, one in enumerate(five(home))]
    expected = list(SequentialStep(home).train(cohort))
    assert distance(list(CohortStep(home).train(cohort)), expected) <= CLOSE
    home.attached.shift_to(NO_SHIFT)


def test_lots_are_few_clients_and_are_trained_when_they_are_asked_for(
    homes: dict[str, Resident], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedtune.cohort.works.MOST_CLIENTS", 2)
    sizes: list[int] = []
    real = CohortStep._train_lot
    monkeypatch.setattr(CohortStep, "_train_lot", lambda self, lot: sizes.append(len(lot)) or real(self, lot))
    results = CohortStep(with_training(homes["bert"])).train(five(homes["bert"]))
    assert sizes == []
    next(results)
    assert sizes == [2]
    list(results)
    assert sizes == [2, 2, 1]


def test_clients_take_turns_where_a_shared_pass_fails(
    homes: dict[str, Resident], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = with_training(homes["bert"], batch_size=2)
    modules = dict(home.attached.model.named_modules())
    monkeypatch.setattr(Stacks, "collect", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("too large")))
    cohort = five(home)[:2]
    assert distance(list(CohortStep(home).train(cohort)), list(SequentialStep(home).train(cohort))) == 0.0
    assert "2 clients take turns" in caplog.text
    assert dict(home.attached.model.named_modules()) == modules


def test_a_tensor_without_part_in_the_loss_is_an_error_for_it_must_not_decay() -> None:
    tensors = {"used": torch.ones(2, 2), "unused": torch.ones(3)}
    stacks = Stacks(Columns.of(tensors, list(tensors), TrainingSection()), 2, like=torch.zeros(0))
    leaves = stacks.leaves([1, 0])
    leaves["used"].sum().backward()
    with pytest.raises(TrainingError, match="'unused' has no part"):
        stacks.collect([1, 0], leaves)
