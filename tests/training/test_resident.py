"""The resident: built from a recipe with the real loader and adapters, shared by all who need the same model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedtune.errors import ModelError, RunError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection, ModelSection, Recipe, RunSection, TrainingSection
from fedtune.state import digest
from fedtune.training.device import has_bf16
from fedtune.training.loop import train_client
from fedtune.training.resident import Resident, forget_resident, resident
from tests.training.parts import CPU, HookedSquare, answer_rows, assignment, image_rows, text_rows, tiny_recipe

SQUARE = AdapterSection(rank=4, targets="attention")
LABELS = ("bad", "good", "so-so")
FAMILIES = [
    ("sequence-classification", "tiny_bert_folder", text_rows),
    ("image-classification", "tiny_vit_folder", image_rows),
    ("causal-lm", "tiny_gpt2_folder", answer_rows),
]


def recipe_of(
    folder: Path,
    task: str = "sequence-classification",
    *,
    adapter: AdapterSection = SQUARE,
    seed: int = 0,
    **training: Any,
) -> Recipe:
    labels = () if task == "causal-lm" else LABELS
    return Recipe(
        model=ModelSection(name=str(folder), task=task, labels=labels, image_size=16),
        adapter=adapter,
        training=TrainingSection(**{"device": "cpu", "batch_size": 4, **training}),
        run=RunSection(seed=seed),
    )


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    forget_resident()
    yield
    forget_resident()


def test_recipes_that_differ_in_rates_alone_share_one_model_and_keep_their_own_rates(tiny_bert_folder: Path) -> None:
    first = resident(recipe_of(tiny_bert_folder, lr=1e-3))
    second = resident(recipe_of(tiny_bert_folder, lr=1e-2, epochs=3))
    assert second.loaded is first.loaded
    assert second.attached is first.attached
    assert second.lock is first.lock
    assert (first.recipe.training.lr, second.recipe.training.lr) == (1e-3, 1e-2)


def test_a_client_of_the_coordinators_process_shares_its_model(tiny_bert_folder: Path) -> None:
    recipe = recipe_of(tiny_bert_folder)
    adapter = recipe.adapter.model_copy(update={"init_source": "/the/coordinator's/own/path"})
    recipe = recipe.model_copy(update={"adapter": adapter})
    seen_by_client = Recipe.from_coordinator(recipe.for_clients())
    assert resident(seen_by_client).loaded is resident(recipe).loaded


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"adapter": AdapterSection(rank=2)}, {"precision": "bf16"}, {"gradient_checkpointing": True}],
)
def test_what_touches_the_model_makes_another_resident(other: dict[str, Any], tiny_bert_folder: Path) -> None:
    first = resident(recipe_of(tiny_bert_folder))
    assert resident(recipe_of(tiny_bert_folder, **other)).loaded is not first.loaded


def test_forgetting_frees_the_model(tiny_bert_folder: Path) -> None:
    first = resident(recipe_of(tiny_bert_folder))
    forget_resident()
    assert resident(recipe_of(tiny_bert_folder)).loaded is not first.loaded


def test_a_failed_build_keeps_nothing_half_made(tiny_bert_folder: Path, tmp_path: Path) -> None:
    resident(recipe_of(tiny_bert_folder))
    with pytest.raises(ModelError):
        resident(recipe_of(tmp_path / "nowhere"))
    assert resident(recipe_of(tiny_bert_folder)).initial


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_a_device_that_is_not_there_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no CUDA GPU|without CUDA"):
        resident(recipe_of(tmp_path / "nowhere", device="cuda"))


def test_the_head_comes_from_the_runs_seed(tiny_bert_folder: Path) -> None:
    first, again, other = (Resident.build(recipe_of(tiny_bert_folder, seed=seed)).initial for seed in (0, 0, 1))
    assert digest(first) == digest(again) != digest(other)
    assert {n for n in first if not torch.equal(first[n], other[n])} == {"head.classifier.weight"}


def test_the_initial_state_outlives_training(tiny_bert_folder: Path) -> None:
    home = resident(recipe_of(tiny_bert_folder, lr=0.05))
    before = digest(home.initial)
    train_client(home, assignment(home, text_rows(5)))
    assert digest(home.initial) == before == digest(resident(recipe_of(tiny_bert_folder)).initial)
    assert digest(home.attached.read()) != before


@pytest.mark.parametrize(("task", "fixture", "make_rows"), FAMILIES)
def test_gradient_checkpointing_changes_the_memory_and_no_bit(
    task: str, fixture: str, make_rows: object, request: pytest.FixtureRequest
) -> None:
    """Dropout included; each layer is seen to run twice a step."""
    folder, states = request.getfixturevalue(fixture), []
    for recompute in (False, True):
        home = Resident.build(recipe_of(folder, task, gradient_checkpointing=recompute, steps=2))
        runs: list[int] = []
        target = home.loaded.model.get_submodule(home.attached.targets()[-1])
        target.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        states.append(train_client(home, assignment(home, make_rows(8))).state)
        assert len(runs) == (4 if recompute else 2)
    assert digest(states[0]) == digest(states[1])


def test_a_model_that_cannot_checkpoint_says_what_to_set() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    loaded = LoadedModel(model, None, "", (), "plain")
    attached = HookedSquare(model, ["0"], rank=2)
    with pytest.raises(ModelError, match=r"set training.gradient_checkpointing = false"):
        Resident.of(loaded, attached, CPU, tiny_recipe(gradient_checkpointing=True))


def test_bf16_is_used_where_the_device_has_it_and_the_state_stays_fp32(tiny_bert_folder: Path) -> None:
    full, half = (Resident.build(recipe_of(tiny_bert_folder, precision=p, lr=1e-2)) for p in ("fp32", "bf16"))
    expected, found = (train_client(home, assignment(home, text_rows(9))) for home in (full, half))
    assert half.bf16 is has_bf16(CPU)
    assert {tensor.dtype for tensor in found.state.values()} == {torch.float32}
    assert found.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=0.02)
    assert (digest(found.state) == digest(expected.state)) is not half.bf16
