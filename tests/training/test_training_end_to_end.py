"""The real loader, adapters and encoder under the local step: it learns, and keeps its promises."""

from pathlib import Path

import datasets
import pytest
import torch

from fedtune.data.encode import encode
from fedtune.recipe import AdapterSection, ModelSection, Recipe, TrainingSection
from fedtune.seeds import derive_seed
from fedtune.state import digest
from fedtune.training.base import Assignment
from fedtune.training.gradient import mean_gradients
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep
from tests.factories import SENTENCES
from tests.training.parts import answer_rows, assignment, load_plain, random_state, text_rows

LORA = AdapterSection(kind="lora", init="kaiming", rank=4, dropout=0.2, targets="attention")
SQUARE = AdapterSection(kind="square", init="weights", rank=4, targets="attention")
RANDOM = AdapterSection(kind="square", init="random", rank=4, targets="all-linear")
ADAPTERS = pytest.mark.parametrize("adapter", [LORA, SQUARE, RANDOM], ids=["lora", "square", "random"])


def build(folder: Path, task: str, adapter: AdapterSection, **training: object) -> Resident:
    labels = () if task == "causal-lm" else ("a", "b", "c")
    return Resident.build(
        Recipe(
            model=ModelSection(name=str(folder), task=task, labels=labels, max_length=32),
            adapter=adapter,
            training=TrainingSection(**{"device": "cpu", "batch_size": 3, **training}),
        )
    )


@ADAPTERS
@pytest.mark.parametrize(
    ("task", "fixture", "make_rows"),
    [("sequence-classification", "tiny_bert_folder", text_rows), ("causal-lm", "tiny_gpt2_folder", answer_rows)],
)
def test_a_cohort_in_another_order_gives_the_same_bits_and_the_base_stays(
    adapter: AdapterSection, task: str, fixture: str, make_rows: object, request: pytest.FixtureRequest
) -> None:
    home = build(request.getfixturevalue(fixture), task, adapter, lr=0.01, accumulate=2)
    trained = {id(parameter) for parameter in home.attached.parameters().values()}
    frozen = {n: p for n, p in home.loaded.model.named_parameters() if id(p) not in trained}
    before = digest(frozen)
    step = SequentialStep(home)
    cohort = [assignment(home, make_rows(4 + n, seed=n), client=f"c{n}", seed=n) for n in range(3)]
    expected = {result.client: digest(result.state) for result in step.train(cohort)}
    step.evaluate(home.initial, make_rows(3))
    assert {result.client: digest(result.state) for result in step.train(cohort[::-1])} == expected
    assert digest(frozen) == before
    assert len(set(expected.values())) == 3


@ADAPTERS
def test_the_gradient_is_read_at_the_base_weights_whatever_adapter_is_on_them(
    adapter: AdapterSection, tiny_gpt2_folder: Path
) -> None:
    home = build(tiny_gpt2_folder, "causal-lm", adapter)
    home.attached.load(random_state(home))
    rows = answer_rows(7)
    gradients = mean_gradients(home, rows, limit=7, seed=0)
    model = load_plain(tiny_gpt2_folder, "causal-lm")
    model(**rows.batch(range(7))).loss.backward()
    assert {name: tuple(g.shape) for name, g in gradients.items()} == home.attached.target_shapes()
    for name, gradient in gradients.items():
        expected = model.get_submodule(name).weight.grad.T
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-3, msg=name)


@ADAPTERS
def test_a_client_learns_its_own_sentences(adapter: AdapterSection, tiny_bert_folder: Path) -> None:
    """From text by the real encoder: from a guess among three classes to every sentence right."""
    larger = {"rank": 8} if adapter.kind == "lora" else {"rank": 16, "targets": "all-linear"}
    large = adapter.model_copy(update=larger)  # a random model knows very little
    options = {
        "epochs": 100,
        "lr": 0.02,
        "schedule": "cosine",
        "warmup_fraction": 0.1,
    }
    home = build(tiny_bert_folder, "sequence-classification", large, **options)
    table = datasets.Dataset.from_dict({"text": list(SENTENCES), "label": ["a", "b", "c", "c", "b", "a"]})
    rows = encode(table, home.loaded, home.recipe.model)
    step = SequentialStep(home)
    before = step.evaluate(home.initial, rows)
    seed = derive_seed(0, "train", round_=1, client="anna")
    (result,) = step.train([Assignment("anna", 1, home.initial, rows, seed)])
    after = step.evaluate(result.state, rows)
    assert (before.examples, result.examples, after.accuracy) == (6, 6, 1.0)
    assert after.loss < 0.2 < before.loss
