"""Scores under privacy: sums by row whose noise is what the plan says that it is."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from client.noised import MOST_LOSS, noised_score
from fedtune.adapters.shift import NO_SHIFT
from fedtune.data.base import Rows
from fedtune.data.encode import encode
from fedtune.data.source import load_table
from fedtune.privacy.events import jointly
from fedtune.training.evaluate import score_rows
from fedtune.training.resident import Resident, resident
from tests.client.places import private_recipe


class Numbers:
    """A noise source of given numbers."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = torch.tensor(numbers, dtype=torch.float64)

    def normal(self, shape: Any) -> torch.Tensor:
        return self._numbers.reshape(tuple(shape))


@pytest.fixture(scope="module")
def bert(tiny_bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Resident, Rows]:
    return world(private_recipe(tiny_bert_folder, tmp_path_factory.mktemp("rows")))


def world(recipe: Any) -> tuple[Resident, Rows]:
    home = resident(recipe)
    return home, encode(load_table(recipe.data, model=recipe.model, seed=0), home.loaded, recipe.model)


def score(pair: tuple[Resident, Rows], *noise: float, sigma: float = 2.0, state: Any = None) -> Any:
    home, rows = pair
    source = Numbers(*noise) if noise else None
    return noised_score(home, state or home.initial, rows, NO_SHIFT, noise_multiplier=sigma, source=source)


def test_without_noise_the_sums_are_those_of_a_plain_score(bert: tuple[Resident, Rows]) -> None:
    plain, private = score_rows(bert[0], bert[0].initial, bert[1]), score(bert, 0.0, 0.0, 0.0)
    assert private.examples == plain.examples
    assert private.correct == pytest.approx(plain.correct, abs=1e-4)
    assert private.loss_sum == pytest.approx(plain.loss_sum, rel=1e-5)


def test_each_sum_has_root_three_times_the_noise_of_what_all_of_them_are_charged(bert: tuple[Resident, Rows]) -> None:
    """add_noise takes the parts by sorted name: correct, examples, loss."""
    bare = score(bert, 0.0, 0.0, 0.0)
    noised = score(bert, -1.0, 1.0, 1.0, sigma=2.0)
    each = 2.0 * math.sqrt(3)
    assert noised.correct == pytest.approx(bare.correct - each, abs=1e-3)
    assert noised.examples == round(bare.examples + each)
    assert noised.loss_sum == pytest.approx(bare.loss_sum + each * MOST_LOSS, rel=1e-5)
    assert jointly(each, each, each) == pytest.approx(2.0)


def test_one_row_more_moves_each_sum_by_what_the_noise_is_scaled_to_at_most(bert: tuple[Resident, Rows]) -> None:
    home, rows = bert
    wild = {name: tensor + 1e4 for name, tensor in home.initial.items()}
    for state in (home.initial, wild):
        for count in (1, 5, 20):
            fewer = score((home, rows.subset(list(range(count - 1)))), 0.0, 0.0, 0.0, state=state)
            more = score((home, rows.subset(list(range(count)))), 0.0, 0.0, 0.0, state=state)
            assert more.examples - fewer.examples == 1
            assert 0 <= more.correct - fewer.correct <= 1 + 1e-6
            assert -1e-3 <= more.loss_sum - fewer.loss_sum <= MOST_LOSS + 1e-3


def test_a_loss_that_is_no_number_counts_as_the_worst(bert: tuple[Resident, Rows]) -> None:
    broken = {name: torch.full_like(tensor, float("nan")) for name, tensor in bert[0].initial.items()}
    assert score(bert, 0.0, 0.0, 0.0, state=broken).loss_sum == pytest.approx(MOST_LOSS * len(bert[1]))


def test_what_is_released_is_a_score_that_can_be(bert: tuple[Resident, Rows]) -> None:
    low, high = score(bert, -1e6, -1e6, -1e6), score(bert, 1e6, 0.0, 0.0)
    assert (low.examples, low.correct, low.loss_sum) == (0, 0.0, 0.0)
    assert high.correct == high.examples == len(bert[1])


def test_noise_is_never_the_same_again(bert: tuple[Resident, Rows]) -> None:
    assert len({score(bert, sigma=0.5).loss_sum for _ in range(5)}) == 5


def test_a_row_of_a_language_model_counts_once_however_many_tokens_it_answers(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "answers.jsonl"
    rows.write_text('{"prompt": "a", "answer": "the cat sat on the mat"}\n{"prompt": "b", "answer": "x"}\n')
    recipe = private_recipe(tiny_llama_folder, tmp_path)
    recipe = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"task": "causal-lm", "labels": (), "max_length": 64}),
            "data": recipe.data.model_copy(update={"source": str(rows)}),
        }
    )
    pair = world(recipe)
    plain = score_rows(pair[0], pair[0].initial, pair[1])
    private = score(pair, 0.0, 0.0, 0.0)
    assert (private.examples, len(pair[1])) == (2, 2)
    assert plain.examples > 10  # tokens
    by_row = [score_rows(pair[0], pair[0].initial, pair[1].subset([at])) for at in (0, 1)]
    assert private.loss_sum == pytest.approx(sum(one.loss for one in by_row), rel=1e-5)
    assert private.correct == pytest.approx(sum(one.accuracy for one in by_row), abs=1e-5)
