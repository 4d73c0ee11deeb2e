"""The sum of clipped updates: one update moves it by the clip at most, whatever it holds and whoever came before it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.errors import MismatchedUpdate, NonFiniteUpdate, PrivacyError
from fedtune.privacy.updates import ClippedSum

SHAPES = {"a": (2, 3), "b": (4,), "c": ()}
SIZE = 11
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
UPDATES = st.lists(NUMBERS, min_size=SIZE, max_size=SIZE)
CLIPS = st.floats(1e-6, 1e6)


def update_of(numbers):
    flat = torch.tensor(numbers, dtype=torch.float32)
    parts = flat.split([6, 4, 1])
    return {name: part.reshape(SHAPES[name]) for name, part in zip(SHAPES, parts, strict=True)}


def sum_of(updates, clip):
    total = ClippedSum(SHAPES, clip)
    for update in updates:
        total.add(update_of(update))
    return np.concatenate([tensor.reshape(-1).numpy() for tensor in total.value().values()])


@given(st.lists(UPDATES, max_size=6), UPDATES, CLIPS)
def test_one_update_more_moves_the_sum_by_the_clip_at_most(others, one, clip):
    moved = np.linalg.norm(sum_of([*others, one], clip) - sum_of(others, clip))
    assert moved <= clip
    assert ClippedSum(SHAPES, clip).sensitivity == clip


@given(st.lists(UPDATES, min_size=2, max_size=6), CLIPS, st.randoms(use_true_random=False))
def test_the_sum_does_not_depend_on_the_order_to_the_last_bit(updates, clip, random):
    shuffled = random.sample(updates, len(updates))
    assert sum_of(updates, clip).tobytes() == sum_of(shuffled, clip).tobytes()


@given(st.lists(UPDATES, min_size=1, max_size=5), CLIPS)
def test_the_sum_is_that_of_the_vectors_scaled_into_the_ball(updates, clip):
    rows = np.array(updates, dtype=np.float32).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    expected = (rows * np.minimum(1, clip / np.maximum(norms, 1e-300))[:, None]).sum(axis=0)
    # Four parts in a million stay free for roundings.
    np.testing.assert_allclose(sum_of(updates, clip), expected, rtol=0, atol=5e-6 * len(updates) * clip)


def test_the_clip_is_of_the_whole_update_and_not_of_each_tensor():
    total = ClippedSum(SHAPES, 1.0)
    assert not total.add(update_of([1.0] * SIZE))
    assert math.hypot(*(t.norm().item() for t in total.value().values())) == pytest.approx(1.0, rel=5e-6)


@pytest.mark.parametrize(("scale", "within"), [(0.999, True), (1.001, False)])
def test_add_says_whether_the_update_was_within_the_clip(scale, within):
    total = ClippedSum(SHAPES, math.sqrt(SIZE))
    assert total.add(update_of([scale] * SIZE)) is within


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(bad):
    total = ClippedSum(SHAPES, 1.0)
    total.add(update_of([0.1] * SIZE))
    before = total.value()
    with pytest.raises(NonFiniteUpdate):
        total.add(update_of([0.1] * (SIZE - 1) + [bad]))
    assert all(torch.equal(before[name], tensor) for name, tensor in total.value().items())


def test_other_tensors_than_those_that_are_summed_are_refused():
    with pytest.raises(MismatchedUpdate):
        ClippedSum(SHAPES, 1.0).add({"a": torch.zeros(2, 3)})


@pytest.mark.parametrize("clip", [0.0, -1.0, math.inf, math.nan])
def test_a_clip_that_bounds_nothing_is_refused(clip):
    with pytest.raises(PrivacyError, match="clip"):
        ClippedSum(SHAPES, clip)


def test_large_updates_of_many_numbers_stay_within_the_clip():
    generator = torch.Generator().manual_seed(5)
    shapes = {"w": (1000, 1000)}
    total = ClippedSum(shapes, 1e-3)
    for scale in (1e-20, 1.0, 1e30):
        before = total.value()["w"]
        total.add({"w": torch.randn(1000, 1000, generator=generator) * scale})
        assert (total.value()["w"] - before).norm().item() <= 1e-3
