"""One client's local steps against a plain PyTorch loop written by hand, and what a step must leave alone."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedtune.errors import AdapterError, TrainingError
from fedtune.state import digest
from fedtune.training.loop import accumulate_gradient, train_client
from tests.training.by_hand import train_by_hand
from tests.training.parts import ListRows, answer_rows, assignment, image_rows, text_rows, tiny_resident

TASKS = {
    "sequence-classification": ("tiny_bert_folder", text_rows),
    "image-classification": ("tiny_vit_folder", image_rows),
    "causal-lm": ("tiny_gpt2_folder", answer_rows),
}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("task", "schedule"), [(task, "cosine") for task in TASKS] + [("causal-lm", "linear")])
def test_a_client_learns_what_a_plain_loop_learns(
    task: str, schedule: str, accumulate: int, request: pytest.FixtureRequest
) -> None:
    """AdamW, a schedule, clipping, dropout, short last batches and groups: the same to 1e-7 in fp32."""
    fixture, rows = TASKS[task]
    folder = request.getfixturevalue(fixture)
    resident = tiny_resident(
        folder, task, epochs=2, batch_size=4, accumulate=accumulate, lr=1e-3, schedule=schedule, max_grad_norm=0.5
    )
    share = assignment(resident, rows(18))
    result = train_client(resident, share)
    state, loss = train_by_hand(folder, task, resident.recipe.training, share)
    assert result.metrics["loss"] == pytest.approx(loss, abs=2e-6)
    for name, tensor in state.items():
        torch.testing.assert_close(result.state[name], tensor, atol=1e-7, rtol=1e-6, msg=name)
    assert max(float((result.state[n] - share.state[n]).abs().max()) for n in state) > 1e-3


@pytest.mark.parametrize("task", ["sequence-classification", "causal-lm"])
def test_an_accumulated_gradient_is_that_of_one_large_batch(task: str, request: pytest.FixtureRequest) -> None:
    """Uneven passes, and answers of uneven length: the weights are rows and tokens, not passes."""
    fixture, make_rows = TASKS[task]
    resident = tiny_resident(request.getfixturevalue(fixture), task)
    rows = make_rows(11)
    share = assignment(resident, rows)
    gradients = []
    for passes in ([list(range(11))], [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]], [[0], list(range(1, 11))]):
        resident.attached.load(share.state)
        loss = accumulate_gradient(resident, [rows.batch(indices) for indices in passes])
        parameters = resident.attached.parameters()
        gradients.append({name: p.grad.clone() for name, p in parameters.items()} | {"loss": loss})
        for parameter in parameters.values():
            parameter.grad = None
    for other in gradients[1:]:
        for name, tensor in gradients[0].items():
            torch.testing.assert_close(other[name], tensor, atol=1e-6, rtol=1e-4, msg=name)


def test_a_pass_with_nothing_to_predict_weighs_nothing(tiny_gpt2_folder: Path) -> None:
    """A mean over no tokens is NaN; it must not reach the gradient."""
    resident = tiny_resident(tiny_gpt2_folder, "causal-lm", batch_size=2, accumulate=2)
    silent = {"input_ids": [5, 6, 7], "labels": [-100] * 3}
    rows = ListRows([silent, silent, *answer_rows(2).examples])
    full = [rows.batch([0, 1]), rows.batch([2, 3])]
    losses = [accumulate_gradient(resident, batches).item() for batches in (full, full[1:])]
    assert losses[0] == losses[1] > 0
    result = train_client(resident, assignment(resident, ListRows([silent] * 4)))
    assert digest(result.state) == digest(assignment(resident, rows).state)


def test_a_client_without_steps_or_rows_hands_back_what_it_got(tiny_bert_folder: Path) -> None:
    for steps, rows in ((0, text_rows(5)), (3, ListRows([]))):
        resident = tiny_resident(tiny_bert_folder, steps=steps)
        share = assignment(resident, rows)
        result = train_client(resident, share)
        assert digest(result.state) == digest(share.state)
        assert all(result.state[n].data_ptr() != share.state[n].data_ptr() for n in share.state)
        assert result.examples == len(rows)
        assert result.metrics["steps"] == 0
        assert "loss" not in result.metrics


def test_an_idle_client_costs_well_below_a_millisecond(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder, steps=0)
    share = assignment(resident, text_rows(5))
    started = time.thread_time()
    for _ in range(200):
        train_client(resident, share)
    assert (time.thread_time() - started) / 200 < 0.5e-3


def test_metrics_count_steps_and_wall_clock_seconds(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder, epochs=2, batch_size=4)
    started = time.perf_counter()
    result = train_client(resident, assignment(resident, text_rows(9)))
    assert result.metrics["steps"] == 6
    assert 0 < result.metrics["seconds"] <= time.perf_counter() - started
    assert math.isfinite(result.metrics["loss"])


def test_what_a_client_was_given_is_never_written_to(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder, lr=0.05)
    share = assignment(resident, text_rows(9))
    before = digest(share.state)
    result = train_client(resident, share)
    assert digest(share.state) == before != digest(result.state)


def test_the_process_draws_on_as_if_no_client_had_been_trained(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train_client(resident, assignment(resident, text_rows(9)))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in resident.loaded.model.modules())
    assert all(p.grad is None for p in resident.loaded.model.parameters())


@pytest.mark.parametrize("options", [{"optimizer": "sgd", "lr": 1e30}, {"lr": 1e38}])
def test_a_rate_that_is_too_high_is_one_sentence_that_names_it(options: dict[str, Any], tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder, steps=40, max_grad_norm=None, **options)
    with pytest.raises(
        TrainingError, match=r"^anna: .* not finite after \d+ local steps?; lower training.lr \(now 1e\+3"
    ):
        train_client(resident, assignment(resident, text_rows(9), client="anna"))


def test_an_infinite_loss_is_an_error_even_where_the_weights_stay_finite(tiny_bert_folder: Path) -> None:
    """Softmax has finite slopes at an infinite loss; a report with infinity in it must not leave the client."""
    resident = tiny_resident(tiny_bert_folder, steps=1)
    share = assignment(resident, text_rows(9))
    far = share.state | {"head.classifier.bias": torch.tensor([3e38, -3e38, -3e38])}
    with pytest.raises(TrainingError, match="the loss is not finite after 1 local step"):
        train_client(resident, replace(share, state=far))


def test_a_client_that_failed_leaves_nothing_behind(tiny_bert_folder: Path) -> None:
    """Gradients, mode and random state are clean again, so that the next client learns what it would have alone."""
    resident = tiny_resident(tiny_bert_folder)
    good = assignment(resident, text_rows(9))
    alone = digest(train_client(resident, good).state)
    broken = replace(good, state={n: torch.full_like(t, math.nan) for n, t in good.state.items()})
    with pytest.raises(TrainingError):
        train_client(resident, broken)
    assert digest(train_client(resident, good).state) == alone
    torn = replace(good, rows=ListRows([*good.rows.examples[:-1], {"input_ids": [4], "labels": "oops"}]))
    with pytest.raises((TypeError, ValueError)):
        train_client(resident, torn)
    assert digest(train_client(resident, good).state) == alone


@pytest.mark.parametrize("steps", [0, 1])
def test_a_state_of_another_adapter_is_refused(steps: int, tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder, steps=steps)
    share = assignment(resident, text_rows(4))
    with pytest.raises(AdapterError, match=r"lacks 'head.classifier.bias'"):
        train_client(resident, replace(share, state={n: t for n, t in share.state.items() if "bias" not in n}))


def test_dropout_comes_from_the_seed_and_is_on(tiny_bert_folder: Path) -> None:
    resident = tiny_resident(tiny_bert_folder, steps=1, batch_size=32)
    share = assignment(resident, text_rows(9), seed=1)
    losses = {seed: train_client(resident, replace(share, seed=seed)).metrics["loss"] for seed in (1, 2, 3)}
    assert len(set(losses.values())) == 3
    assert train_client(resident, share).metrics["loss"] == losses[1]
