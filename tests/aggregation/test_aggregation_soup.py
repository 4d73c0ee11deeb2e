"""A soup is the mean in weight space, against float64; a greedy one is never worse than its best ingredient."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.aggregation import Frame, Global
from fedtune.aggregation.frame import frame_of
from fedtune.aggregation.soup import greedy, uniform
from fedtune.errors import RunError
from fedtune.recipe import AdapterSection
from fedtune.state import digest
from tests.adapters.adapter_models import attached_to, batch
from tests.aggregation.product_frames import lora, square, whole_change
from tests.aggregation.worlds_of_factors import HEAD, draw, random_world

FRAMES: dict[str, Callable[[int], Frame]] = {"lora": lora, "square": square}
seeds = st.integers(0, 1000)


def dense_shift(frame: Frame, seed: int) -> Shift:
    return Shift().then({f"{m}.D": t for m, t in draw(dict(frame.modules), seed).items()})


def worlds_of(frame: Frame, count: int, seed: int, shifts: str) -> list[Global]:
    """Worlds of one run: with one shift, one each, or none; factored, dense or mixed."""
    shared = random_world(frame, seed).shift
    found = []
    for i in range(count):
        world = random_world(frame, seed + i)
        own = {"none": NO_SHIFT, "shared": shared, "own": world.shift, "dense": dense_shift(frame, seed + i)}
        own["mixed"] = (world.shift, dense_shift(frame, seed + i), NO_SHIFT)[i % 3]
        found.append(replace(world, shift=own[shifts], control=draw(HEAD, seed), memory=draw(HEAD, seed)))
    return found


def assert_mean(frame: Frame, soup: Global, worlds: Sequence[Global]) -> None:
    """In weight space, and of the heads; to fp32 rounding of the terms."""
    found, changes = whole_change(frame, soup), [whole_change(frame, world) for world in worlds]
    for module in frame.modules:
        expected = torch.stack([change[module] for change in changes]).mean(0)
        size = sum(float(change[module].norm()) for change in changes) + 1e-9
        assert float((found[module] - expected).norm()) <= 1e-6 * size
    for name in HEAD:
        expected = torch.stack([world.state[name].double() for world in worlds]).mean(0)
        torch.testing.assert_close(soup.state[name].double(), expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("shifts", ["none", "shared", "own", "dense", "mixed"])
@pytest.mark.parametrize("form", FRAMES)
@settings(max_examples=30)
@given(rank=st.integers(1, 4), count=st.integers(1, 5), seed=seeds)
def test_the_soups_change_is_the_mean_of_the_changes(form: str, shifts: str, rank: int, count: int, seed: int) -> None:
    frame = FRAMES[form](rank)
    worlds = worlds_of(frame, count, seed, shifts)
    soup = uniform(worlds, frame)
    assert_mean(frame, soup, worlds)
    assert {n: tuple(t.shape) for n, t in soup.state.items()} == frame.shapes
    assert all(t.dtype == torch.float32 for t in (*soup.state.values(), *soup.shift.tensors.values()))


def test_the_mean_of_loras_factors_is_another_model() -> None:
    """The test above is worth something: averaging the states, as the other forms do, fails it."""
    frame = lora(3)
    worlds = worlds_of(frame, 3, 0, "none")
    naive = Global({n: torch.stack([w.state[n] for w in worlds]).mean(0) for n in frame.shapes})
    with pytest.raises(AssertionError):
        assert_mean(frame, naive, worlds)


def test_a_lora_soup_starts_its_adapter_from_zero_on_top_of_the_shift_that_was_there() -> None:
    frame = lora(2, modules={"m": (40, 50)})
    worlds = worlds_of(frame, 3, 0, "shared")
    soup = uniform(worlds, frame)
    assert torch.equal(soup.state["m.lora_A"], worlds[0].state["m.lora_A"])
    assert not soup.state["m.lora_B"].any()
    assert soup.shift.last_from == worlds[0].shift.key
    assert soup.shift.tensors["m.U"].shape == (40, 2 + 3 * 2)


def test_a_soup_of_linear_adapters_keeps_their_shift() -> None:
    frame = square(2)
    worlds = worlds_of(frame, 3, 0, "shared")
    assert uniform(worlds, frame).shift is worlds[0].shift
    assert uniform(worlds_of(frame, 3, 0, "none"), frame).shift == NO_SHIFT


def test_methods_of_peft_are_averaged_as_they_are() -> None:
    frame = replace(square(2), form="peft", modules={}, products=_refuse)
    worlds = worlds_of(square(2), 3, 0, "none")
    soup = uniform(worlds, frame)
    for name in frame.shapes:
        expected = torch.stack([world.state[name].double() for world in worlds]).mean(0)
        torch.testing.assert_close(soup.state[name].double(), expected, atol=1e-7, rtol=1e-6)
    assert soup.shift == NO_SHIFT


def _refuse(_state: object) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    raise AssertionError("nobody should ask")


def test_one_ingredient_is_itself_and_none_are_refused() -> None:
    frame = lora(2)
    (world,) = worlds_of(frame, 1, 0, "own")
    assert uniform([world], frame) is world
    for cook in (lambda: uniform([], frame), lambda: greedy([], frame, lambda _: 0.0)):
        with pytest.raises(RunError, match="at least one trained adapter"):
            cook()


def test_a_soup_forgets_what_only_training_needs() -> None:
    soup = uniform(worlds_of(square(2), 2, 0, "none"), square(2))
    assert soup.control == {}
    assert soup.memory == {}


@pytest.mark.parametrize("form", FRAMES)
@settings(max_examples=30)
@given(count=st.integers(1, 6), seed=seeds)
def test_a_greedy_soup_is_never_worse_than_its_best_ingredient(form: str, count: int, seed: int) -> None:
    """Scored by the distance of ΔW from a target that the worlds scatter around."""
    frame = FRAMES[form](2)
    worlds = worlds_of(frame, count, seed, "none")
    target = whole_change(frame, Global(draw(frame.shapes, seed + 77)))

    def score(world: Global) -> float:
        change = whole_change(frame, world)
        return -sum(float((change[module] - target[module]).norm()) for module in frame.modules)

    ranked = sorted(worlds, key=score, reverse=True)
    soup = greedy(ranked, frame, score)
    assert score(soup) >= max(score(world) for world in worlds)


def test_the_greedy_soup_keeps_what_helps_and_only_that() -> None:
    """Numbers instead of models: the score is the distance of the mean from 1."""
    frame = replace(square(1), shapes={"x": (1,)}, modules={})
    worlds = [Global({"x": torch.tensor([value])}) for value in (0.8, 1.3, 9.0, 0.9, -5.0)]
    soup = greedy(worlds, frame, lambda world: -abs(float(world.state["x"]) - 1.0))
    assert float(soup.state["x"]) == pytest.approx((0.8 + 1.3 + 0.9) / 3)


def test_an_ingredient_that_does_not_hurt_stays_in() -> None:
    frame = replace(square(1), shapes={"x": (1,)}, modules={})
    worlds = [Global({"x": torch.tensor([value])}) for value in (0.0, 2.0, 4.0)]
    assert float(greedy(worlds, frame, lambda _: 0.5).state["x"]) == 2.0


@pytest.mark.parametrize(
    "kind",
    [
        {"kind": "square"},
        {"kind": "ravan", "init": "random", "heads": 3},
        {"kind": "lora", "init": "kaiming", "freeze_a": True},
        {"kind": "lora", "init": "kaiming", "alpha": 8.0},
    ],
)
def test_a_model_with_the_soup_in_place_computes_with_the_mean_weights(
    kind: dict[str, object], tiny_bert_folder: Path
) -> None:
    """Loaded and shifted, a layer's output is the mean of its outputs under the ingredients: it is linear."""
    loaded, attached = attached_to(tiny_bert_folder, "bert", targets=("0.attention.self.query",), **kind)
    frame = frame_of(attached, AdapterSection.model_validate({"rank": 4, **kind}))
    worlds = [Global(draw(frame.shapes, seed, 0.3)) for seed in range(3)]

    def query(world: Global) -> torch.Tensor:
        attached.shift_to(world.shift)
        attached.load(world.state)
        (name,) = attached.targets()
        seen: list[torch.Tensor] = []
        handle = loaded.model.get_submodule(name).register_forward_hook(lambda _, __, out: seen.append(out))
        with torch.no_grad():
            loaded.model.eval()(**batch("bert"))
        handle.remove()
        return seen[0]

    expected = torch.stack([query(world) for world in worlds]).mean(0)
    torch.testing.assert_close(query(uniform(worlds, frame)), expected, atol=1e-5, rtol=1e-5)
    before = [digest(world.state) for world in worlds]
    assert len(set(before)) == 3
