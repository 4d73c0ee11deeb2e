"""A body that is trained: what head, body and tail come to together is what training the whole model comes to."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedtune.adapters.attach import attach
from fedtune.adapters.full import Full
from fedtune.aggregation import Contribution, Global, make_aggregator
from fedtune.aggregation.frame import frame_of
from fedtune.errors import MissingBody, TransportError
from fedtune.models.load import load_model
from fedtune.recipe.aggregation import AggregationSection
from fedtune.seeds import derive_seed
from fedtune.split.base import Share
from fedtune.split.cut import whole_name
from fedtune.split.joined import joined
from fedtune.split.local import body_copies, body_model, local_bodies
from fedtune.split.sides import body_side, client_side
from fedtune.split.step import SplitStep
from fedtune.state import State, digest, subtract
from fedtune.training.base import Assignment
from fedtune.training.evaluate import score_rows
from fedtune.training.loop import train_client
from fedtune.training.resident import Resident
from tests.split.split_models import CPU, make
from tests.split.split_rounds import PLAIN, home, recipe, rows

FULL: dict[str, dict[str, Any]] = {
    "split": {"train_head": True, "body": "full"},
    "training": {"accumulate": 2, "epochs": 2},
}
LORA: dict[str, dict[str, Any]] = {
    "adapter": {"kind": "lora", "rank": 2, "init": "kaiming", "targets": "attention"},
    "split": {"train_head": True, "body": "lora"},
    "training": {"accumulate": 2, "epochs": 2, "lr": 0.5},
}
ADAMW = {"optimizer": "adamw", "lr": 1e-3, "schedule": "cosine", "warmup_fraction": 0.2}


def merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {name: {**one.get(name, {}), **other.get(name, {})} for name in one.keys() | other.keys()}


def whole_of(split: Resident, name: str) -> str:
    """What a tensor of the run's state is called in the state of the whole model."""
    assert split.parts is not None
    if name.startswith("body."):
        found: str = split.attached.name_of_body(name.removeprefix("body."))  # type: ignore[attr-defined]
        return found
    plain = name.removeprefix("head.")
    return ("head." if plain != name else "") + whole_name(plain, split.parts.cut)


def whole_resident(split: Resident, state: State) -> tuple[Resident, State]:
    """The whole model in which the very tensors of `state` are trained, and that state by the names in it."""
    loaded = load_model(split.recipe.model, device=CPU, seed=derive_seed(split.recipe.run.seed, "head"))
    renamed = {whole_of(split, name): tensor for name, tensor in state.items()}
    section, task = split.recipe.adapter, split.recipe.model.task
    names = {name.removeprefix("head.") for name in renamed}
    attached = Full(loaded, section, task, names.__contains__) if section.kind == "full" else None
    resident = Resident.of(loaded, attached or attach(loaded, section, task=task), CPU, split.recipe)
    return resident, renamed


def federate(split: Resident, whole: State, clients: int = 2) -> State:
    """One round of the split model: what the weighted mean of all updates comes to."""
    copies = body_copies(split.recipe)
    assert copies is not None
    copies.offer("r", 1, whole)
    step = SplitStep(split, local_bodies(split.recipe, copies))
    start = client_side(whole)
    after = []
    for number in range(clients):
        data = rows_of(split, number)
        [result] = step.train([Assignment(f"c{number}", 1, start, data, number, run="r")])
        after.append((subtract(result.state, start) | copies.take("r", 1, f"c{number}"), len(data)))
    assert copies.held == 0
    return mean(split, whole, after)


def rows_of(split: Resident, number: int) -> Any:
    family = "vit" if split.recipe.model.task == "image-classification" else "bert"
    return rows(family, 5 + 2 * number, seed=number)


def mean(resident: Resident, start: State, deltas: list[tuple[State, int]]) -> State:
    aggregator = make_aggregator(AggregationSection(), frame_of(joined(resident).attached, resident.recipe.adapter))
    aggregator.begin(Global(start), 1)
    for number, (delta, weight) in enumerate(deltas):
        aggregator.add(Contribution(f"c{number}", delta, float(weight)))
    return aggregator.finish().state


CASES = [
    pytest.param("vit", FULL, id="full vit"),
    pytest.param("bert", merge(FULL, {"training": ADAMW}), id="full bert adamw"),
    pytest.param("vit", LORA, id="lora vit"),
    pytest.param("bert", merge(LORA, {"training": {**ADAMW, "lr": 1e-2}}), id="lora bert adamw"),
]


@pytest.mark.parametrize(("family", "sections"), CASES)
def test_a_round_with_all_parts_trained_is_one_of_the_whole_model(
    family: str, sections: dict[str, Any], tmp_path: Path
) -> None:
    split = home(family, make(tmp_path, family, **PLAIN.get(family, {})), **sections)
    both = joined(split)
    start = {name: tensor + 0.01 * torch.ones_like(tensor) for name, tensor in both.initial.items()}
    whole, named = whole_resident(split, start)
    extra = {name: tensor for name, tensor in whole.initial.items() if name not in named}
    assert all("pooler" in name for name in extra)  # LoRA on the whole model finds nothing else to sit on
    found = federate(split, start)
    results = []
    for number in range(2):
        data = rows_of(split, number)
        result = train_client(whole, Assignment("c", 1, named | extra, data, number))
        results.append((subtract(result.state, named | extra), len(data)))
    total = sum(weight for _, weight in results)
    moved = 0.0
    for name, tensor in found.items():
        other = whole_of(split, name)
        expected = named[other] + sum(delta[other] * (weight / total) for delta, weight in results)
        torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=0)
        moved = max(moved, float((tensor - start[name]).abs().max())) if name.startswith("body.") else moved
    assert moved > 1e-3
    both.attached.load(found)
    scored = SplitStep(both, local_bodies(split.recipe)).evaluate(found, rows_of(split, 0))
    plain = score_rows(whole, {whole_of(split, n): t for n, t in found.items()} | extra, rows_of(split, 0))
    assert scored.loss == pytest.approx(plain.loss, abs=1e-5)


def test_the_bodys_gradient_is_limited_by_itself_and_its_own_tensors_stay() -> None:
    free, limited = (
        merge(LORA, {"training": {"epochs": 1, "accumulate": 4, "max_grad_norm": norm}}) for norm in (None, 1e-3)
    )
    split = home("vit", **limited)
    before = digest(dict(body_model(split.recipe).named_parameters()))
    both = joined(split)
    start = {name: tensor + 0.01 for name, tensor in both.initial.items()}
    copies = body_copies(split.recipe)
    assert copies is not None
    copies.offer("r", 1, start)
    step = SplitStep(split, local_bodies(split.recipe, copies))
    [result] = step.train([Assignment("c", 1, client_side(start), rows("vit", 8), 1, run="r")])
    change = copies.take("r", 1, "c")
    norm = torch.cat([tensor.flatten() for tensor in change.values()]).norm()
    own = torch.cat([t.flatten() for t in subtract(result.state, client_side(start)).values()]).norm()
    assert float(norm) == pytest.approx(0.5 * 1e-3, rel=0.01)  # one step of SGD at the rate of 0.5
    assert float(own) == pytest.approx(0.5 * 1e-3, rel=0.01)
    assert digest(dict(body_model(split.recipe).named_parameters())) == before
    assert home("vit", **free).recipe.training.max_grad_norm is None


def test_gradients_come_to_the_body_where_the_client_needs_none() -> None:
    sections = merge(LORA, {"split": {"train_head": False, "activations": "fp16"}})
    split = home("vit", **sections)
    both = joined(split)
    copies = body_copies(split.recipe)
    assert copies is not None
    copies.offer("r", 1, both.initial)
    step = SplitStep(split, local_bodies(split.recipe, copies))
    [result] = step.train([Assignment("c", 1, client_side(both.initial), rows("vit", 4), 1, run="r")])
    row = 4 + 2 * 2 * 5 * 16  # a scale, and two rows of five tokens in two bytes a number
    assert result.metrics["body_up"] == 4 * 2 * row
    assert result.metrics["body_down"] == 4 * row
    assert any(bool(tensor.any()) for tensor in copies.take("r", 1, "c").values())


def test_a_copy_is_of_one_round_and_one_client() -> None:
    made = recipe("vit", **LORA)
    copies = body_copies(made)
    assert copies is not None
    with pytest.raises(TransportError, match="may be over"):
        copies.open(Share("r", 1, "a"))
    start = {f"body.{name}": tensor for name, tensor in body_model(made).initial.items()}
    copies.offer("r", 1, start)
    with pytest.raises(TransportError, match="may be over"):
        copies.open(Share("r", 2, "a"))
    first, second = (copies.open(Share("r", 1, name)) for name in "ab")
    hidden = torch.randn(1, 5, 16)
    assert torch.equal(first.run(hidden, None, train=False), body_model(made)(hidden))
    assert not first.parameters
    with pytest.raises(MissingBody):
        copies.take("r", 1, "a")
    first.step(1.0, last=True)
    second.step(1.0, last=True)
    assert copies.held == 2
    copies.drop("b")
    copies.open(Share("r", 1, "a"))  # again from the start: what it had finished goes
    assert copies.held == 0
    first.step(1.0, last=True)
    assert set(copies.take("r", 1, "a")) == set(start)
    second.step(1.0, last=True)
    copies.offer("r", 2, start)
    second.step(1.0, last=True)  # too late
    assert copies.held == 0
    assert body_side(start).keys() == body_model(made).initial.keys()
