"""Scores by packed passes are those by plain ones."""

from dataclasses import replace

import pytest

from fedtune.adapters.shift import NO_SHIFT
from fedtune.cohort.packed import PackedPass
from fedtune.cohort.score import outputs_by
from fedtune.cohort.step import CohortStep
from fedtune.training.evaluate import score_rows
from tests.cohort.adapted import adapted, rows_of
from tests.split.split_models import LAYERS


@pytest.mark.parametrize("kind", ["square", "prompt"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "dinov2"])
def test_scores_are_those_of_plain_passes(family: str, kind: str) -> None:
    resident, rows = adapted(family, first=LAYERS - 1, kind=kind), rows_of(family, (7, 3, 12, 7, 2, 9, 12))
    training = resident.recipe.training.model_copy(update={"eval_batch_size": 3})
    resident = replace(resident, recipe=resident.recipe.model_copy(update={"training": training}))
    state, a_pass = resident.attached.read(), PackedPass(resident, None)
    expected = score_rows(resident, state, rows)
    for _ in range(2):
        found = score_rows(resident, state, rows, NO_SHIFT, outputs_by(a_pass, NO_SHIFT))
        assert (found.examples, found.correct) == (expected.examples, expected.correct)
        assert found.loss_sum == pytest.approx(expected.loss_sum, rel=1e-6)
    assert score_rows(resident, state, rows).loss_sum == expected.loss_sum


def test_cohorts_are_scored_so() -> None:
    resident, rows = adapted("llama", first=LAYERS - 1), rows_of("llama", (7, 3, 12, 7, 2, 9, 12))
    step, state = CohortStep(resident), resident.attached.read()
    assert step.turns is None
    expected = score_rows(resident, state, rows)
    found = step.evaluate(state, rows)
    assert (found.examples, found.correct) == (expected.examples, expected.correct)
    assert found.loss_sum == pytest.approx(expected.loss_sum, rel=1e-6)
