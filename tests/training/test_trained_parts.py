"""What a client does not train stands still: tensors that the scheme freezes, slots beyond its rank."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedtune.adapters.shift import Shift
from fedtune.adapters.slots import narrow, widen
from fedtune.errors import TrainingError
from fedtune.recipe import AdapterSection
from fedtune.state import State, digest
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.loop import train_client
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep
from tests.training.by_hand import train_by_hand
from tests.training.parts import adapted_resident, assignment, random_state, text_rows, tiny_resident

LARGE = {
    "square": AdapterSection(kind="square", rank=6, targets="attention"),
    "lora": AdapterSection(kind="lora", init="kaiming", rank=6, alpha=12.0, targets="attention"),
}
SMALL = {
    "square": AdapterSection(kind="square", rank=2, targets="attention"),
    "lora": AdapterSection(kind="lora", init="kaiming", rank=2, alpha=4.0, targets="attention"),
}
"""The same scale and, for square, the leading factors of the same decomposition."""
OPTIMISERS = [
    {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.1},
    {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "max_grad_norm": 0.5},
    {"optimizer": "adamw", "lr": 3e-3, "proximal": 5.0},
]


@pytest.mark.parametrize("options", OPTIMISERS)
@pytest.mark.parametrize("kind", LARGE)
def test_training_the_leading_slots_is_training_the_smaller_adapter(
    kind: str, options: dict[str, Any], tiny_bert_folder: Path
) -> None:
    """Steps, decay, clipping: to 1e-6 those of a model that holds the smaller adapter alone; the rest stays zero."""
    large = adapted_resident(tiny_bert_folder, LARGE[kind], epochs=2, batch_size=4, **options)
    small = adapted_resident(tiny_bert_folder, SMALL[kind], epochs=2, batch_size=4, **options)
    axes, slots = large.attached.axes(), (0, 1)
    alone = assignment(small, text_rows(14))
    shared = replace(alone, state=widen(alone.state, large.shapes(), axes, slots), slots=slots)
    expected, result = train_client(small, alone), train_client(large, shared)
    own = narrow(result.state, axes, slots)
    for name, tensor in expected.state.items():
        torch.testing.assert_close(own[name], tensor, atol=1e-6, rtol=1e-6, msg=name)
    assert max(float((own[n] - alone.state[n]).abs().max()) for n in own if not n.startswith("head.")) > 1e-3
    outside = {n: t - widen({n: own[n]}, large.shapes(), axes, slots)[n] for n, t in result.state.items()}
    assert not any(bool(t.any()) for t in outside.values())
    assert result.metrics["loss"] == pytest.approx(expected.metrics["loss"], abs=1e-6)


def test_without_the_mask_a_square_adapter_would_leave_its_slots(tiny_bert_folder: Path) -> None:
    """The test above is worth something: gradients outside of the slots are not zero by themselves."""
    large = adapted_resident(tiny_bert_folder, LARGE["square"], steps=1)
    start = narrow(assignment(large, text_rows(4)).state, large.attached.axes(), (0, 1))
    share = replace(assignment(large, text_rows(4)), state=widen(start, large.shapes(), large.attached.axes(), (0, 1)))
    result = train_client(large, share).state
    assert any(bool(result[name][2:, 2:].any()) for name in result if name.endswith(".R"))


RAVAN = AdapterSection(kind="ravan", init="random", rank=3, heads=4, targets="attention")


@pytest.mark.parametrize("options", OPTIMISERS)
def test_training_some_heads_of_ravan_is_training_them_without_the_others(
    options: dict[str, Any], tiny_bert_folder: Path
) -> None:
    """Against a model whose other heads are cut off: they add nothing there, and no gradient reaches them."""
    masked = adapted_resident(tiny_bert_folder, RAVAN, epochs=2, batch_size=4, **options)
    cut = adapted_resident(tiny_bert_folder, RAVAN, epochs=2, batch_size=4, **options)
    for name in cut.attached.targets():
        columns = cut.loaded.model.get_submodule(name).get_buffer("B").unflatten(1, (4, 3))
        columns[:, [1, 3]] = 0.0
    axes, slots = masked.attached.axes(), (0, 2)
    whole = assignment(masked, text_rows(14))
    share = replace(whole, state=widen(narrow(whole.state, axes, slots), masked.shapes(), axes, slots))
    result, expected = train_client(masked, replace(share, slots=slots)), train_client(cut, share)
    for name, tensor in expected.state.items():
        torch.testing.assert_close(result.state[name], tensor, atol=1e-6, rtol=1e-6, msg=name)
    for name in (n for n in result.state if n.endswith(".H")):
        assert not result.state[name][[1, 3]].any()
        assert (result.state[name] - share.state[name])[[0, 2]].abs().max() > 1e-3
    assert set(result.rates) == set(masked.shapes())


def test_the_scales_of_ravan_are_trained_with_their_squares_and_rest_with_them(tiny_bert_folder: Path) -> None:
    resident = adapted_resident(tiny_bert_folder, RAVAN, epochs=2, lr=0.01)
    still, moving = (f"{name}.H" for name in resident.attached.targets()[:2])
    share = assignment(resident, text_rows(9))
    trained = tuple(name for name in share.state if name != still)
    result = train_client(resident, replace(share, trained=trained))
    assert torch.equal(result.state[still], share.state[still])
    assert not torch.equal(result.state[moving], share.state[moving])
    for square, trains in ((still, False), (moving, True)):
        scale = resident.attached.parameters()[f"{square.removesuffix('H')}s"]
        assert bool((scale == 1).all()) is not trains


@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_a_frozen_factor_comes_back_bit_for_bit(side: str, tiny_bert_folder: Path) -> None:
    resident = adapted_resident(tiny_bert_folder, LARGE["lora"], epochs=2, lr=0.01, weight_decay=0.3, proximal=0.1)
    names = tuple(resident.shapes())
    trained = tuple(name for name in names if name.endswith(side) or name.startswith("head."))
    share = replace(assignment(resident, text_rows(9)), trained=trained, correction=random_state(resident, 3))
    result = train_client(resident, share)
    for name in names:
        assert torch.equal(result.state[name], share.state[name]) == (name not in trained), name
    assert set(result.rates) == set(trained)
    assert all(p.requires_grad and p.grad is None for p in resident.attached.parameters().values())


def test_the_trained_part_learns_what_a_plain_loop_over_it_learns(tiny_bert_folder: Path) -> None:
    """Clipping sees the trained tensors alone."""
    resident = tiny_resident(tiny_bert_folder, epochs=2, batch_size=4, max_grad_norm=0.05)
    trained = tuple(name for name in resident.shapes() if not name.startswith("head."))
    share = replace(assignment(resident, text_rows(14)), trained=trained)
    section = resident.recipe.training
    expected, _ = train_by_hand(tiny_bert_folder, "sequence-classification", section, share)
    result = train_client(resident, share)
    for name, tensor in expected.items():
        torch.testing.assert_close(result.state[name], tensor, atol=1e-6, rtol=1e-6, msg=name)


def test_a_client_that_trains_nothing_hands_back_what_it_got(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder)
    share = replace(assignment(resident, text_rows(5)), trained=())
    result = train_client(resident, share)
    assert digest(result.state) == digest(share.state)
    assert result.metrics["steps"] == 0
    assert result.rates == {}


def test_a_client_that_failed_leaves_every_tensor_trainable(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder)
    good = assignment(resident, text_rows(9))
    bad = replace(
        good,
        state={n: torch.full_like(t, math.nan) for n, t in good.state.items()},
        trained=tuple(n for n in good.state if n.startswith("head.")),
    )
    with pytest.raises(TrainingError):
        train_client(resident, bad)
    assert all(p.requires_grad and p.grad is None for p in resident.attached.parameters().values())


def test_the_rates_add_up_the_schedule_by_name(tiny_bert_folder: Path) -> None:
    """A linear schedule over 4 steps without warm-up: 1, 3/4, 1/2 and 1/4 of the peak."""
    options: dict[str, Any] = {"steps": 4, "schedule": "linear", "lr": 1e-3, "head_lr": 4e-3, "weight_decay": 0.1}
    resident = tiny_resident(tiny_bert_folder, **options)
    share = assignment(resident, text_rows(9))
    rates = train_client(resident, share).rates
    assert set(rates) == set(share.state)
    for name, rate in rates.items():
        assert rate == pytest.approx((4e-3 if name.startswith("head.") else 1e-3) * 2.5)
    idle = tiny_resident(tiny_bert_folder, steps=0)
    assert train_client(idle, share).rates == dict.fromkeys(share.state, 0.0)


@pytest.mark.parametrize("kind", LARGE)
def test_a_shift_trains_and_scores_as_base_weights_that_have_it_inside(kind: str, tiny_bert_folder: Path) -> None:
    shifted = adapted_resident(tiny_bert_folder, LARGE[kind].model_copy(update=RANDOM[kind]), epochs=2, lr=0.01)
    plain = adapted_resident(tiny_bert_folder, LARGE[kind].model_copy(update=RANDOM[kind]), epochs=2, lr=0.01)
    change = shift_of(shifted)
    with torch.no_grad():
        for module, delta in change.dense().items():
            layer = plain.loaded.model.get_submodule(module)
            getattr(layer, "base_layer", layer).weight += delta.float()
    share, rows = assignment(shifted, text_rows(9)), text_rows(8, seed=3)
    result = train_client(shifted, replace(share, shift=change))
    expected = train_client(plain, share)
    for name, tensor in expected.state.items():
        torch.testing.assert_close(result.state[name], tensor, atol=1e-6, rtol=1e-6, msg=name)
    score, at_base = (SequentialStep(shifted).evaluate(result.state, rows, s) for s in (change, Shift()))
    assert score.loss == pytest.approx(SequentialStep(plain).evaluate(expected.state, rows).loss, abs=1e-5)
    assert abs(score.loss - at_base.loss) > 1e-3


RANDOM: dict[str, dict[str, str]] = {"square": {"init": "random"}, "lora": {}}
"""Starts that do not read the base weights."""


def shift_of(resident: Resident, seed: int = 0) -> Shift:
    """A change of rank 2 of every target."""
    draw = torch.Generator().manual_seed(seed)
    tensors: State = {}
    for name, (out, in_) in resident.attached.target_shapes().items():
        tensors[f"{name}.U"] = torch.randn(out, 2, generator=draw) / 2
        tensors[f"{name}.V"] = torch.randn(2, in_, generator=draw) / 2
    return Shift().then(tensors)


def mixed_cohort(resident: Resident) -> list[Assignment]:
    """One client of each kind."""
    axes, shapes = resident.attached.axes(), resident.shapes()
    plain = assignment(resident, text_rows(5))
    narrowed = widen(narrow(plain.state, axes, (0, 3)), shapes, axes, (0, 3))
    return [
        plain,
        replace(plain, client="slots", slots=(0, 3), state=narrowed),
        replace(plain, client="trained", trained=tuple(n for n in shapes if n.endswith("lora_B"))),
        replace(plain, client="shifted", shift=shift_of(resident)),
        replace(plain, client="corrected", correction=random_state(resident, 5)),
        replace(plain, client="idle", trained=()),
    ]


def digests(results: Sequence[LocalResult]) -> dict[str, tuple[str, tuple[tuple[str, float], ...]]]:
    return {result.client: (digest(result.state), tuple(sorted(result.rates.items()))) for result in results}


def test_neighbours_of_every_kind_change_no_bit(tiny_bert_folder: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "lr": 0.01, "weight_decay": 0.1}
    resident = adapted_resident(tiny_bert_folder, LARGE["lora"], **options)
    step, cohort = SequentialStep(resident), mixed_cohort(resident)
    alone: list[LocalResult] = []
    for share in cohort:
        alone.extend(SequentialStep(adapted_resident(tiny_bert_folder, LARGE["lora"], **options)).train([share]))
    expected = digests(alone)
    assert len({state for state, _ in expected.values()}) == len(cohort)
    assert digests(list(step.train(cohort))) == expected
    assert digests(list(step.train(cohort[::-1]))) == expected
    mixed = []
    for result in step.train(cohort):
        step.evaluate(result.state, text_rows(4), shift_of(resident, seed=9))
        mixed.append(result)
    assert digests(mixed) == expected
