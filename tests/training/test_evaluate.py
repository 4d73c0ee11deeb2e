"""Scores against a row-by-row count by hand, and what scoring must leave alone."""

import math
from pathlib import Path

import pytest
import torch

from fedtune.state import digest
from fedtune.training.evaluate import score_rows
from tests.training.parts import ListRows, answer_rows, image_rows, random_state, text_rows, tiny_resident

CASES = [
    ("sequence-classification", "tiny_bert_folder", text_rows),
    ("image-classification", "tiny_vit_folder", image_rows),
    ("causal-lm", "tiny_llama_folder", answer_rows),
]


def score_by_hand(model: torch.nn.Module, rows: ListRows) -> tuple[int, float, int]:
    """One row at a time, so without padding; log-softmax in float64."""
    examples, loss, right = 0, 0.0, 0
    for index in range(len(rows)):
        batch = rows.batch([index])
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = model(**batch).logits.double()
        if labels.ndim > 1:
            logits, labels = logits[0, :-1], labels[0, 1:]
        for scores, label in zip(logits, labels.tolist(), strict=True):
            if label >= 0:
                examples += 1
                loss -= float(scores.log_softmax(0)[label])
                right += int(scores.argmax()) == label
    return examples, loss, right


@pytest.mark.parametrize(("task", "fixture", "make_rows"), CASES)
def test_a_score_is_the_count_by_hand(
    task: str, fixture: str, make_rows: object, request: pytest.FixtureRequest
) -> None:
    resident = tiny_resident(request.getfixturevalue(fixture), task, eval_batch_size=4)
    state, rows = random_state(resident), make_rows(10)
    score = score_rows(resident, state, rows)
    other = tiny_resident(request.getfixturevalue(fixture), task)
    other.attached.load(state)
    examples, loss, right = score_by_hand(other.attached.model, rows)
    assert (score.examples, score.correct) == (examples, right)
    assert score.loss_sum == pytest.approx(loss, rel=1e-5)
    assert score.accuracy == right / examples


def test_scores_of_parts_add_up_whatever_the_batch_size(tiny_llama_folder: Path) -> None:
    small = tiny_resident(tiny_llama_folder, "causal-lm", eval_batch_size=3)
    large = tiny_resident(tiny_llama_folder, "causal-lm", eval_batch_size=100)
    state, rows = random_state(small), answer_rows(11)
    whole = score_rows(large, state, rows)
    parts = [score_rows(small, state, ListRows(rows.examples[i:j])) for i, j in ((0, 4), (4, 11))]
    assert whole.examples == sum(part.examples for part in parts)
    assert whole.correct == sum(part.correct for part in parts)
    assert whole.loss_sum == pytest.approx(sum(part.loss_sum for part in parts), rel=1e-5)


def test_no_rows_and_no_answers_score_nothing(tiny_llama_folder: Path) -> None:
    resident = tiny_resident(tiny_llama_folder, "causal-lm", eval_batch_size=1)
    silent = {"input_ids": [5, 6, 7], "labels": [-100] * 3}
    state = random_state(resident)
    for rows in (ListRows([]), ListRows([silent])):
        score = score_rows(resident, state, rows)
        assert (score.examples, score.loss_sum, score.correct) == (0, 0.0, 0.0)
        assert math.isnan(score.loss)
    mixed = score_rows(resident, state, ListRows([silent, *answer_rows(3).examples]))
    assert mixed == score_rows(resident, state, answer_rows(3))


@pytest.mark.parametrize("training", [True, False])
def test_scoring_leaves_random_state_mode_and_state_alone(training: bool, tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder)
    resident.attached.model.train(training)
    state = random_state(resident)
    before, drawn = digest(state), torch.get_rng_state()
    scores = {score_rows(resident, state, text_rows(6)) for _ in range(2)}
    assert len(scores) == 1  # without dropout, in either mode
    assert digest(state) == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(module.training is training for module in resident.attached.model.modules())
