"""A bad update is refused by name before it touches the sum."""

import pytest
import torch

from fedtune.aggregation.validate import check_delta, check_examples, check_origin, norm_of
from fedtune.errors import MismatchedUpdate, NonFiniteUpdate, StaleUpdate, WeightOutOfRange
from fedtune.recipe import AggregationSection
from fedtune.wire import Update

SECTION = AggregationSection()
SHAPES = {"a": (2, 2), "b": (3,)}
ORIGIN = {"run": "run", "round_": 3, "base": "ab", "stages": ("fp16",)}


def good():
    return {"a": torch.ones(2, 2), "b": torch.ones(3)}


@pytest.mark.parametrize(
    ("delta", "error", "words"),
    [
        ({"a": torch.ones(2, 2)}, MismatchedUpdate, "lacks 'b'"),
        ({**good(), "c": torch.ones(1)}, MismatchedUpdate, "unknown 'c'"),
        ({**good(), "b": torch.ones(4)}, MismatchedUpdate, r"shape \(4,\), not \(3,\)"),
        ({**good(), "b": torch.ones(3, dtype=torch.float64)}, MismatchedUpdate, "float64"),
        ({**good(), "b": torch.tensor([1.0, float("nan"), 1.0])}, NonFiniteUpdate, "NaN"),
        ({**good(), "a": torch.full((2, 2), float("inf"))}, NonFiniteUpdate, "infinity"),
        ({**good(), "b": torch.full((3,), 1e30)}, MismatchedUpdate, "norm"),
        ({**good(), "b": torch.full((3,), torch.finfo(torch.float32).max)}, MismatchedUpdate, "norm"),
    ],
)
def test_a_delta_that_cannot_be_summed_is_named(delta, error, words):
    with pytest.raises(error, match=words):
        check_delta(delta, SHAPES, SECTION)


def test_a_good_delta_passes_and_so_does_a_subnormal_one():
    check_delta(good(), SHAPES, SECTION)
    check_delta({**good(), "b": torch.full((3,), 1e-42)}, SHAPES, SECTION)


@pytest.mark.parametrize("examples", [0, -15, 10**12])
def test_a_claimed_count_that_cannot_be_true_is_refused(examples):
    with pytest.raises(WeightOutOfRange):
        check_examples(examples, SECTION)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"run": "x"}, StaleUpdate),
        ({"round": 2}, StaleUpdate),
        ({"base": "cd"}, StaleUpdate),
        ({"stages": ()}, MismatchedUpdate),
    ],
)
def test_an_update_for_something_else_is_stale(change, error):
    fields = {"run": "run", "round": 3, "client": "c", "base": "ab", "stages": ("fp16",), "tensors": {}, "examples": 1}
    check_origin(Update(**fields), **ORIGIN)
    with pytest.raises(error):
        check_origin(Update(**fields | change), **ORIGIN)


def test_the_norm_is_over_all_tensors():
    assert norm_of({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}) == pytest.approx(5.0)
