"""A client's round on a split model: each phase does what its switch says, and all of it what the whole model would."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fedtune.adapters.full import Full
from fedtune.errors import RunError, TransportError
from fedtune.models.load import load_model
from fedtune.seeds import derive_seed
from fedtune.split.base import Share
from fedtune.split.cut import whole_name
from fedtune.split.local import LocalBody, body_model, local_bodies
from fedtune.split.step import SplitStep
from fedtune.state import digest
from fedtune.training.base import Assignment
from fedtune.training.evaluate import score_rows
from fedtune.training.loop import train_client
from fedtune.training.make import local_step, scoring_step
from fedtune.training.resident import Resident
from tests.split.split_models import CPU, make
from tests.split.split_rounds import PLAIN, Late, Watched, home, recipe, rows, train

FAMILIES = ["vit", "bert", "llama", "gpt2"]
SFPROMPT = {"prompt_tokens": 2, "local_epochs": 1, "keep": 0.5}


def whole_resident(split: Resident) -> Resident:
    """The whole model, in which the very tensors are trained that `split` trains."""
    assert split.parts is not None
    cut = split.parts.cut
    names = {whole_name(name.removeprefix("head."), cut) for name in split.initial}
    loaded = load_model(split.recipe.model, device=CPU, seed=derive_seed(split.recipe.run.seed, "head"))
    attached = Full(loaded, split.recipe.adapter, split.recipe.model.task, names.__contains__)
    return Resident.of(loaded, attached, CPU, split.recipe)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("train_head", [False, True], ids=["tail", "head too"])
def test_training_through_the_body_is_training_of_the_whole_model(
    family: str, train_head: bool, tmp_path: Path
) -> None:
    path = make(tmp_path, family, **PLAIN.get(family, {}))
    sections = {"split": {"train_head": train_head}, "training": {"accumulate": 3, "epochs": 2}}
    split = home(family, path, **sections)
    whole, data = whole_resident(split), rows(family)
    result = train(split, data)
    expected = train_client(whole, Assignment("c", 3, whole.initial, data, 5))
    assert result.metrics["steps"] == expected.metrics["steps"] == 4
    assert result.metrics["loss"] == pytest.approx(expected.metrics["loss"], abs=1e-5)
    assert len(result.state) == len(expected.state) > 4
    for name, tensor in result.state.items():
        other = whole_name(name.removeprefix("head."), split.parts.cut)
        other = other if other in expected.state else f"head.{other}"
        assert not torch.equal(tensor, split.initial[name])
        torch.testing.assert_close(tensor, expected.state[other], atol=1e-5, rtol=0)
    scored = SplitStep(split, local_bodies(split.recipe)).evaluate(result.state, data)
    plain = score_rows(whole, expected.state, data)
    assert (scored.examples, scored.correct) == (plain.examples, plain.correct)
    assert scored.loss == pytest.approx(plain.loss, abs=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_neither_how_many_are_on_their_way_nor_when_answers_come_changes_a_bit(family: str) -> None:
    found = set()
    for in_flight in (1, 2, 3, 8):
        deep = {"prompt_tokens": 2, "deep_prompts": True, "train_head": True, "in_flight": in_flight}
        resident = home(family, split=deep, training={"accumulate": 5})
        opener = local_bodies(resident.recipe)
        found.add(digest(train(resident, rows(family, 11), opener).state))
        for seed in range(2):
            late = train(resident, rows(family, 11), partial(_late, opener, seed))
            found.add(digest(late.state))
    assert len(found) == 1


def _late(opener: Any, seed: int, share: Share) -> Late:
    return Late(opener(share), seed)


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_as_many_micro_batches_are_on_their_way_as_the_body_takes(in_flight: int) -> None:
    resident = home("vit", split={"prompt_tokens": 2, "in_flight": in_flight}, training={"accumulate": 6})
    watched = Watched(resident.recipe)
    train(resident, rows("vit", 12), watched)
    assert watched.most == in_flight


def test_training_alone_sends_nothing() -> None:
    resident = home("vit", split={"prompt_tokens": 2, "local_epochs": 2}, training={"steps": 0})
    watched = Watched(resident.recipe)
    result = train(resident, rows("vit"), watched)
    assert not watched.shares
    assert watched.numbers == 0
    assert result.metrics["steps"] == 8
    assert not torch.equal(result.state["prompt.input"], resident.initial["prompt.input"])


def test_only_the_kept_rows_pass_the_body_and_the_weight_is_all_of_them() -> None:
    resident = home("vit", split=SFPROMPT, training={"epochs": 3})
    watched = Watched(resident.recipe)
    result = train(resident, rows("vit", 9), watched)
    assert watched.rows == 3 * 5
    assert (result.examples, result.metrics["kept"], result.metrics["steps"]) == (9, 5, 5 + 3 * 3)
    [share] = watched.shares
    assert (share.run, share.round, share.client) == ("r", 3, "c")
    assert watched.calls["close"] == 1
    assert {"loss", "alone_loss"} <= result.metrics.keys()


def test_what_crosses_is_what_the_formula_says() -> None:
    resident = home("vit", split={"prompt_tokens": 2}, training={"epochs": 1})
    watched = Watched(resident.recipe)
    train(resident, rows("vit", 6), watched)
    tokens, width = 1 + 4 + 2, 16
    assert watched.numbers == 6 * 4 * tokens * width


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ({"tail_layers": 0}, 5 + 1),  # the head reads the first token alone, and nothing before the cut is trained
        ({"tail_layers": 1}, 5 + 5),
        ({"tail_layers": 0, "prompt_tokens": 2, "prompt_at": "cut"}, 7 + 1 + 1 + 2),
    ],
    ids=["probe", "tail", "prompt at the cut"],
)
def test_only_the_share_crosses_that_the_mathematics_needs(split: dict[str, object], numbers: int) -> None:
    resident = home("vit", split=split)
    watched = Watched(resident.recipe)
    train(resident, rows("vit", 2), watched)
    assert watched.numbers == 2 * 16 * numbers
    assert watched.calls["backward"] == ("prompt_at" in split)


def test_head_and_body_are_what_they_were() -> None:
    resident = home("vit", split=SFPROMPT)
    body = body_model(resident.recipe)
    frozen = {n: p for n, p in resident.loaded.model.named_parameters() if not p.requires_grad}
    before = digest(dict(body.named_parameters())), digest(frozen)
    result = train(resident, rows("vit"))
    assert (digest(dict(body.named_parameters())), digest(frozen)) == before
    assert all("layer.0" not in name and "layers.0" not in name for name in result.state)
    assert any(".layernorm" in name for name in result.state)
    assert "head.classifier.weight" in result.state


def test_a_clients_result_depends_on_its_assignment_alone() -> None:
    resident = home("bert", split=SFPROMPT)
    step = SplitStep(resident, local_bodies(resident.recipe))
    cohort = [Assignment(f"c{i}", 1, resident.initial, rows("bert", 5 + i), i) for i in range(3)]
    together = [digest(result.state) for result in step.train(cohort)]
    alone = [digest(next(iter(step.train([one]))).state) for one in reversed(cohort)]
    assert together == alone[::-1]
    assert len(set(together)) == 3


def test_a_body_that_fails_is_closed_and_the_next_client_is_trained() -> None:
    resident = home("vit", training={"accumulate": 3})
    failing = Watched(resident.recipe, fails_at=2)
    with pytest.raises(TransportError):
        train(resident, rows("vit"), failing)
    assert failing.calls["close"] == 1
    assert all(p.grad is None for p in resident.attached.parameters().values())
    assert digest(train(resident, rows("vit")).state) == digest(
        train(home("vit", training={"accumulate": 3}), rows("vit")).state
    )


def test_a_client_without_rows_hands_back_what_it_was_given() -> None:
    resident = home("vit", split=SFPROMPT)
    watched = Watched(resident.recipe)
    result = train(resident, rows("vit", 0), watched)
    assert digest(result.state) == digest(resident.initial)
    assert (result.examples, watched.shares) == (0, [])
    assert SplitStep(resident, watched).evaluate(resident.initial, rows("vit", 0)).examples == 0


@pytest.mark.parametrize(("kind", "init"), [("lora", "kaiming"), ("square", "weights"), ("ravan", "random")])
def test_small_adapters_sit_on_the_layers_that_are_trained(kind: str, init: str) -> None:
    adapter = {"kind": kind, "init": init, "rank": 2}
    tail = home("vit", adapter=adapter, split={"prompt_tokens": 2, "deep_prompts": True})
    both = home("vit", adapter=adapter, split={"train_head": True})
    assert both.parts is not None
    assert {name.split("layer")[1][:3] for name in tail.attached.targets()} <= {".1.", "s.1"}
    assert len(both.attached.targets()) == 2 * len(tail.attached.targets())
    result = train(tail, rows("vit"))
    assert all(not torch.equal(tensor, tail.initial[name]) for name, tensor in result.state.items())


def test_a_split_model_needs_a_body_and_a_whole_one_does_not() -> None:
    resident = home("vit")
    with pytest.raises(RunError, match="nothing here offers its body"):
        local_step(resident)
    assert isinstance(local_step(resident, local_bodies(resident.recipe)), SplitStep)
    assert isinstance(scoring_step(resident), SplitStep)
    whole = Resident.build(recipe("vit", split={"head_layers": None}))
    with pytest.raises(RunError, match="is not split"):
        SplitStep(whole, local_bodies(resident.recipe))


def test_one_body_is_shared_by_all_of_a_process() -> None:
    first = recipe("vit")
    assert body_model(first) is body_model(recipe("vit", split={"prompt_tokens": 3}, training={"lr": 1.0}))
    assert body_model(recipe("vit", split={"head_layers": 2})) is not body_model(first)
    assert isinstance(local_bodies(first)(None), LocalBody)  # type: ignore[arg-type]
