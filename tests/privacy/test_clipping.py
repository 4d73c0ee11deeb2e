"""One example, or one client, changes a sum by the clip at most, whatever its numbers are."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.errors import PrivacyError
from fedtune.privacy.clipping import STABILITY, Clipping, clip_state, clipped_sum

KINDS: tuple[Clipping, ...] = ("flat", "per-layer", "automatic")
SHAPES = {"a": (3, 4), "b": (5,), "c": (2, 2, 2)}


def gradients(count: int, *, seed: int, spread: float = 1.0) -> dict[str, torch.Tensor]:
    """Gradients of `count` examples whose sizes differ by powers of ten."""
    draw = torch.Generator().manual_seed(seed)
    sizes = 10 ** (spread * torch.randn(count, generator=draw))
    return {n: torch.randn(count, *s, generator=draw) * sizes.reshape(-1, *[1] * len(s)) for n, s in SHAPES.items()}


def one_by_one(examples: dict[str, torch.Tensor], clip: float, how: Clipping) -> dict[str, torch.Tensor]:
    """The definition, in double precision, one example after the other."""
    total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    for i in range(len(examples["a"])):
        own = {name: tensor[i].double() for name, tensor in examples.items()}
        norm = math.sqrt(sum(float(t.square().sum()) for t in own.values()))
        for name, tensor in own.items():
            factor = {
                "flat": min(1.0, clip / norm),
                "per-layer": min(1.0, clip / math.sqrt(len(SHAPES)) / float(tensor.norm())),
                "automatic": clip / (norm + STABILITY),
            }[how]
            total[name] += factor * tensor
    return total


def norm_of(state: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in state.values()))


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("clip", [0.01, 1.0, 30.0])
def test_the_sum_is_that_of_examples_clipped_one_by_one(how: Clipping, clip: float) -> None:
    examples = gradients(9, seed=1)
    expected = one_by_one(examples, clip, how)
    for name, total in clipped_sum(examples, clip, how).items():
        assert total.dtype == torch.float64
        torch.testing.assert_close(total, expected[name], atol=1e-5 * clip, rtol=0)


@pytest.mark.parametrize("how", KINDS)
@given(seed=st.integers(0, 2**31), clip=st.floats(1e-4, 1e4), spread=st.floats(0, 8))
def test_one_example_more_moves_the_sum_by_the_clip_at_most(
    how: Clipping, seed: int, clip: float, spread: float
) -> None:
    examples = gradients(6, seed=seed, spread=spread)
    without = {name: tensor[1:].clone() for name, tensor in examples.items()}
    more, less = clipped_sum(examples, clip, how), clipped_sum(without, clip, how)
    assert norm_of({name: more[name] - less[name] for name in more}) <= clip


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_example_that_is_not_finite_counts_as_zero_and_the_others_as_ever(how: Clipping, bad: float) -> None:
    examples = gradients(5, seed=3)
    alone = clipped_sum({name: t[[0, 1, 3, 4]].clone() for name, t in examples.items()}, 1.0, how)
    examples["b"][2, 1] = bad
    spoiled = clipped_sum(examples, 1.0, how)
    for name, total in spoiled.items():
        torch.testing.assert_close(total, alone[name], atol=1e-12, rtol=0)


@pytest.mark.parametrize("how", KINDS)
def test_only_examples_that_are_not_finite_sum_to_zero(how: Clipping) -> None:
    total = clipped_sum({"a": torch.full((3, 2), math.nan)}, 1.0, how)
    assert total["a"].tolist() == [0.0, 0.0]


def test_per_layer_parts_add_up_to_the_clip_and_automatic_needs_no_threshold() -> None:
    long = {name: torch.ones(1, *shape) * 1e3 for name, shape in SHAPES.items()}
    assert norm_of(clipped_sum(long, 2.0, "per-layer")) == pytest.approx(2.0, rel=1e-5)
    short = {name: torch.ones(1, *shape) * 0.1 for name, shape in SHAPES.items()}
    assert norm_of(clipped_sum(short, 2.0, "automatic")) == pytest.approx(2 * 0.5 / (0.5 + STABILITY), rel=1e-5)
    assert norm_of(clipped_sum(short, 2.0, "flat")) == pytest.approx(0.5, rel=1e-5)


@given(seed=st.integers(0, 2**31), clip=st.floats(1e-6, 1e6), size=st.floats(-30, 30))
def test_an_update_is_never_longer_than_the_clip_and_keeps_its_direction(seed: int, clip: float, size: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    update = {name: torch.randn(shape, generator=draw) * 10**size for name, shape in SHAPES.items()}
    clipped = clip_state(update, clip)
    assert norm_of(clipped) <= clip
    before = norm_of(update)
    if before <= clip * (1 - 1e-6):
        assert all(torch.equal(clipped[name], update[name]) for name in update)
    else:
        assert norm_of(clipped) == pytest.approx(clip, rel=1e-5)
        cosine = sum(float((clipped[n].double() * update[n].double()).sum()) for n in update) / norm_of(clipped)
        assert cosine == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_becomes_zero(bad: float) -> None:
    clipped = clip_state({"a": torch.tensor([1.0, bad]), "b": torch.ones(2)}, 1.0)
    assert {name: t.tolist() for name, t in clipped.items()} == {"a": [0.0, 0.0], "b": [0.0, 0.0]}
    assert clip_state({}, 1.0) == {}


@pytest.mark.parametrize("clip", [0.0, -1.0, math.inf, math.nan])
def test_a_clip_that_bounds_nothing_is_refused(clip: float) -> None:
    with pytest.raises(PrivacyError, match="clip must be"):
        clip_state({"a": torch.ones(1)}, clip)
    with pytest.raises(PrivacyError, match="clip must be"):
        clipped_sum({"a": torch.ones(1, 1)}, clip, "flat")
