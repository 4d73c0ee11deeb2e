"""A client's result depends on its assignment alone: not on order, neighbours, or what is evaluated in between."""

from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import pytest
import torch

from fedtune.errors import TrainingError
from fedtune.state import digest
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep
from tests.training.parts import answer_rows, assignment, text_rows, tiny_resident

TASKS = [
    ("sequence-classification", "tiny_bert_folder", text_rows),
    ("causal-lm", "tiny_llama_folder", answer_rows),
]


def cohort_of(resident: Resident, make_rows: object, size: int = 5) -> list[Assignment]:
    return [
        assignment(resident, make_rows(3 + n, seed=n), client=f"c{n}", seed=100 + n, state_seed=n % 2)
        for n in range(size)
    ]


def digests(results: Sequence[LocalResult]) -> dict[str, tuple[str, float]]:
    return {result.client: (digest(result.state), result.metrics["loss"]) for result in results}


@pytest.mark.parametrize(("task", "fixture", "make_rows"), TASKS)
def test_order_splits_and_evaluation_in_between_change_no_bit(
    task: str, fixture: str, make_rows: object, request: pytest.FixtureRequest
) -> None:
    resident = tiny_resident(request.getfixturevalue(fixture), task, batch_size=2, accumulate=2, weight_decay=0.1)
    step = SequentialStep(resident)
    cohort = cohort_of(resident, make_rows)
    expected = digests(list(step.train(cohort)))
    assert len(set(expected.values())) == 5
    assert digests(list(step.train(cohort[::-1]))) == expected
    assert digests([*step.train(cohort[3:]), *step.train(cohort[:3])]) == expected
    mixed = []
    for result in step.train(cohort):
        step.evaluate(result.state, make_rows(4, seed=9))
        torch.rand(3)
        mixed.append(result)
    assert digests(mixed) == expected


def test_results_come_in_the_cohorts_order_and_only_when_asked_for(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder)
    cohort = cohort_of(resident, text_rows)
    results = SequentialStep(resident).train(cohort)
    before = digest(resident.attached.read())
    assert digest(resident.attached.read()) == before == digest(resident.initial)
    assert [result.client for result in results] == [share.client for share in cohort]


def test_base_weights_are_untouched_bit_for_bit(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder, lr=0.1, weight_decay=0.5)
    frozen = {n: t for n, t in resident.loaded.model.state_dict().items() if not n.startswith("classifier")}
    before = digest(frozen)
    step = SequentialStep(resident)
    for result in step.train(cohort_of(resident, text_rows)):
        step.evaluate(result.state, text_rows(4))
    assert digest(frozen) == before
    trained = {name for name, p in resident.loaded.model.named_parameters() if p.requires_grad}
    assert trained == {"classifier.weight", "classifier.bias"}


def test_an_error_is_raised_at_its_client_and_the_next_ones_are_trained_as_ever(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder)
    step, cohort = SequentialStep(resident), cohort_of(resident, text_rows, size=3)
    expected = digests(list(step.train(cohort)))
    bad = Assignment("c1", 1, {n: t * torch.inf for n, t in cohort[1].state.items()}, cohort[1].rows, 1)
    results = step.train([cohort[0], bad, cohort[2]])
    first = next(results)
    with pytest.raises(TrainingError, match=r"^c1: "):
        next(results)
    assert digests([first, *results]) == {c: expected[c] for c in ("c0", "c2")}


def test_threads_that_share_a_resident_do_not_mix_their_clients(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder)
    step, cohort = SequentialStep(resident), cohort_of(resident, text_rows, size=4)
    expected = digests(list(step.train(cohort)))
    found: list[LocalResult] = []
    threads = [Thread(target=lambda part=part: found.extend(step.train(part))) for part in (cohort[:2], cohort[2:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests(found) == expected
