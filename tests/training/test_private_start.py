"""Noised gradients for `dp-gradient`: the sum of clipped rows, noise of the plan's size, and factors from it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from fedtune.errors import AdapterError, PrivacyError
from fedtune.recipe import AdapterSection, Recipe
from fedtune.recipe.privacy import PrivacySection
from fedtune.state import digest
from fedtune.training.gradient import mean_gradients
from fedtune.training.private_start import noised_gradients
from fedtune.training.resident import Resident
from tests.training.parts import (
    ListRows,
    adapted_resident,
    answer_rows,
    assignment,
    image_rows,
    load_plain,
    random_state,
    text_rows,
)
from tests.training.private_parts import Counted, NoNoise

SECTION = AdapterSection(kind="square", rank=4, targets="attention", init="dp-gradient", init_rows=8)
CASES = {
    "bert": ("sequence-classification", "tiny_bert_folder", text_rows),
    "vit": ("image-classification", "tiny_vit_folder", image_rows),
    "llama": ("causal-lm", "tiny_llama_folder", answer_rows),
    "gpt2": ("causal-lm", "tiny_gpt2_folder", answer_rows),
}


def starting(folder: Path, task: str = "sequence-classification", *, batch_size: int = 3, **privacy: Any) -> Resident:
    """A tiny model whose recipe starts from noised gradients."""
    home = adapted_resident(folder, SECTION, task, steps=1, batch_size=batch_size)
    settled = {"unit": "example", "delta": 1e-5, "noise_multiplier": 1.0, "sampling_rate": 0.5, "init_noise": 2.0}
    section = PrivacySection(**{**settled, **privacy})
    return replace(home, recipe=home.recipe.model_copy(update={"privacy": section, "adapter": SECTION}))


def by_hand(folder: Path, task: str, rows: ListRows, names: tuple[str, ...], clip: float) -> dict[str, torch.Tensor]:
    """Each row alone through a model whose target weights are trained, in double precision."""
    model = load_plain(folder, task).double().requires_grad_(False)
    weights = [model.get_submodule(name).weight.requires_grad_(True) for name in names]
    total = {name: torch.zeros(()) for name in names}
    for row in range(len(rows)):
        batch = rows.batch([row])
        labels = batch.pop("labels")
        batch = {name: t.double() if t.is_floating_point() else t for name, t in batch.items()}
        logits = model(**batch).logits
        if labels.ndim > 1:
            logits, labels = logits[0, :-1], labels[0, 1:]
            logits, labels = logits[labels >= 0], labels[labels >= 0]
        found = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), weights)
        norm = math.sqrt(sum(float(t.square().sum()) for t in found))
        for name, gradient in zip(names, found, strict=True):
            flat = isinstance(model.get_submodule(name), torch.nn.Linear)
            total[name] = total[name] + (gradient if flat else gradient.T) * min(1.0, clip / norm)
    return total


@pytest.mark.parametrize("case", CASES)
def test_the_sum_is_that_of_rows_clipped_one_by_one(case: str, request: pytest.FixtureRequest) -> None:
    """All rows, in passes of three, over the public `init_rows`; the adapter and head of some client are not seen."""
    task, fixture, make_rows = CASES[case]
    folder, rows = request.getfixturevalue(fixture), make_rows(10)
    plain = by_hand(folder, task, rows, starting(folder, task).attached.targets(), 1e9)
    clip = 0.05 * math.sqrt(sum(float(t.square().sum()) for t in plain.values()))
    home = starting(folder, task, clip=clip)
    home.attached.load(random_state(home))
    before = digest(home.attached.read())
    found = noised_gradients(home, rows, NoNoise())
    expected = by_hand(folder, task, rows, home.attached.targets(), clip)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].double(), tensor / 8, atol=1e-5 * clip, rtol=0, msg=name)
    assert digest(home.attached.read()) == before
    assert all(p.grad is None for p in home.attached.model.parameters())


def test_without_a_clip_that_bites_it_is_the_mean_gradient_up_to_the_divisor(tiny_bert_folder: Path) -> None:
    home, rows = starting(tiny_bert_folder, clip=1e6), text_rows(10)
    found, mean = noised_gradients(home, rows, NoNoise()), mean_gradients(home, rows, limit=10, seed=0)
    for name, tensor in mean.items():
        torch.testing.assert_close(found[name] * 8 / 10, tensor, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("clip", [1e-3, 1.0])
def test_one_row_moves_the_sum_by_the_clip_at_most(clip: float, tiny_bert_folder: Path) -> None:
    home, rows = starting(tiny_bert_folder, clip=clip), text_rows(9)
    more = noised_gradients(home, rows, NoNoise())
    for gone in (0, 4, 8):
        rest = ListRows([row for i, row in enumerate(rows.examples) if i != gone])
        less = noised_gradients(home, rest, NoNoise())
        moved = 8 * math.sqrt(sum(float((more[n] - less[n]).double().square().sum()) for n in more))
        assert moved <= clip * (1 + 1e-5)
        assert moved > 0 if clip == 1.0 else moved > 0.9 * clip


def test_a_row_that_is_not_finite_adds_nothing(tiny_vit_folder: Path) -> None:
    home = starting(tiny_vit_folder, "image-classification", clip=0.1)
    rows = image_rows(5)
    spoiled = [dict(row) for row in rows.examples]
    spoiled[1]["pixel_values"] = torch.full((3, 16, 16), math.nan)
    found = noised_gradients(home, ListRows(spoiled), NoNoise())
    expected = noised_gradients(home, ListRows([r for i, r in enumerate(rows.examples) if i != 1]), NoNoise())
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-7, rtol=0)


@pytest.mark.parametrize("count", [0, 6])
def test_the_noise_is_that_of_the_plan_for_a_client_without_rows_too(count: int, tiny_bert_folder: Path) -> None:
    home, rows, source = starting(tiny_bert_folder, clip=0.3), text_rows(count), Counted()
    found, sum_ = noised_gradients(home, rows, source), noised_gradients(home, rows, NoNoise())
    noise = torch.cat([(found[n].double() - sum_[n].double()).flatten() * 8 for n in found])
    assert source.drawn == len(noise)
    assert stats.kstest((noise / (2.0 * 0.3)).numpy(), "norm").pvalue > 1e-9


def test_only_a_recipe_that_pays_gets_gradients(tiny_bert_folder: Path) -> None:
    home = starting(tiny_bert_folder)

    def under(recipe: Recipe) -> Resident:
        return replace(home, recipe=recipe)

    weights = SECTION.model_copy(update={"init": "weights"})
    for recipe in (
        home.recipe.model_copy(update={"privacy": PrivacySection()}),
        home.recipe.model_copy(update={"adapter": weights}),
        home.recipe.model_copy(
            update={"privacy": PrivacySection(unit="client", delta=1e-5, noise_multiplier=1.0, population=9)}
        ),
    ):
        with pytest.raises(PrivacyError, match="noised gradients are for"):
            noised_gradients(under(recipe), text_rows(3))


def test_the_adapter_starts_at_zero_in_the_subspace_of_the_gradient(tiny_bert_folder: Path) -> None:
    """No sign, which would bring noise up to the size of the signal: a planted subspace is found under noise."""
    home = starting(tiny_bert_folder)
    draw = torch.Generator().manual_seed(0)
    gradients, planted = {}, {}
    for name, (out, in_) in home.attached.target_shapes().items():
        b, a = torch.linalg.qr(torch.randn(out, 4, generator=draw)).Q, torch.linalg.qr(torch.randn(in_, 4)).Q
        planted[name] = b
        gradients[name] = 30 * b @ torch.diag(torch.tensor([4.0, 3, 2, 1])) @ a.T + torch.randn(out, in_) / 4
    home.attached.initialise(gradients)
    for name, b in planted.items():
        found = home.attached.shared()[f"{name}.B"]
        assert float(torch.linalg.svdvals(found.T @ b).min()) > 0.98
        assert not bool(home.attached.read()[f"{name}.R"].any())
    assert home.attached.shared_origin == "broadcast"
    rows = assignment(home, text_rows(4)).rows.batch([0, 1, 2])
    labels = rows.pop("labels")
    plain = load_plain(tiny_bert_folder, "sequence-classification")
    with torch.no_grad():
        torch.testing.assert_close(home.attached.model(**rows).logits, plain(**rows).logits)
    assert len(labels) == 3


def test_gradients_that_are_not_finite_start_nothing(tiny_bert_folder: Path) -> None:
    home = starting(tiny_bert_folder)
    bad = {name: torch.full(shape, math.nan) for name, shape in home.attached.target_shapes().items()}
    with pytest.raises(AdapterError, match="NaN or infinity"):
        home.attached.initialise(bad)
