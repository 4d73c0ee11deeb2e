"""How wrong a model is about each row, and which rows are kept: by hand, within bounds, ties by their place."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.split.score import KeptRows, _distance, hardest, score_each
from fedtune.training.forward import forward
from tests.split.split_rounds import home, rows

NUMBERS = st.floats(-50, 50, width=32)


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=5), st.integers(0, 2))
def test_an_error_is_between_nothing_and_the_square_root_of_two(logits: list[list[float]], label: int) -> None:
    scores = _distance(torch.tensor(logits), torch.full((len(logits),), label))
    assert bool(((scores >= 0) & (scores <= math.sqrt(2) + 1e-6)).all())
    onehot = torch.nn.functional.one_hot(torch.tensor(label), 3)
    expected = (torch.tensor(logits).double().softmax(-1) - onehot).norm(dim=-1)
    torch.testing.assert_close(scores.double(), expected, atol=1e-3, rtol=0)


def test_the_ends_of_the_range_are_reached() -> None:
    sure = torch.tensor([[100.0, 0.0, 0.0]])
    assert float(_distance(sure, torch.tensor([0]))) == 0
    assert float(_distance(sure, torch.tensor([1]))) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("family", ["vit", "bert"])
def test_rows_are_scored_by_the_short_circuit_whatever_the_batches(family: str) -> None:
    data = rows(family, 7)
    small = home(family, training={"eval_batch_size": 2}, split={"prompt_tokens": 2})
    scores = score_each(small, small.initial, data)
    large = home(family, split={"prompt_tokens": 2})
    torch.testing.assert_close(scores, score_each(large, large.initial, data), atol=1e-5, rtol=0)
    with torch.no_grad():
        for index in range(7):
            batch = data.batch([index])
            p = forward(small, batch).logits[0].double().softmax(-1)
            p[int(batch["labels"])] -= 1
            assert float(scores[index]) == pytest.approx(float(p.norm()), abs=1e-5)


def test_of_a_causal_lm_the_mean_over_answer_tokens() -> None:
    resident, data = home("llama", training={"eval_batch_size": 3}), rows("llama", 5)
    silent = {"input_ids": [5, 6, 7], "labels": [-100, -100, -100]}
    data = type(data)([*data.examples, silent])
    scores = score_each(resident, resident.initial, data)
    for index, row in enumerate(data.examples[:5]):
        with torch.no_grad():
            p = forward(resident, data.batch([index])).logits[0].double().softmax(-1)
        errors = []
        for place, label in enumerate(row["labels"][1:]):
            if label != -100:
                p[place, label] -= 1
                errors.append(float(p[place].norm()))
        assert float(scores[index]) == pytest.approx(sum(errors) / len(errors), abs=1e-5)
    assert float(scores[5]) == 0


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=12), st.sampled_from([0.1, 0.3, 0.5, 0.75, 1.0]))
def test_the_hardest_are_kept_and_of_equals_the_first(scores: list[float], keep: float) -> None:
    kept = hardest(torch.tensor(scores), keep)
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    assert kept == sorted(order[: len(kept)])
    assert len(kept) - 1 < keep * len(scores) + 1e-9 or not scores
    assert len(kept) >= keep * len(scores) - 1e-9


def test_a_tenth_of_thirty_is_three() -> None:
    assert len(hardest(torch.zeros(30), 0.1)) == 3


def test_kept_rows_are_the_rows_at_their_places() -> None:
    data = rows("vit", 6)
    kept = KeptRows(data, [1, 4, 5])
    assert len(kept) == 3
    assert torch.equal(kept.batch([2, 0])["pixel_values"], data.batch([5, 1])["pixel_values"])


def test_nothing_is_scored_where_there_is_nothing() -> None:
    resident = home("vit")
    assert score_each(resident, resident.initial, rows("vit", 0)).shape == (0,)
    assert hardest(torch.zeros(0), 0.5) == []
