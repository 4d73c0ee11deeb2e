"""Private steps are those of the definition, one row at a time in double precision, and those of Opacus."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedtune.catalogue import fetch
from fedtune.privacy.noise import NoiseSource
from fedtune.recipe import AdapterSection, ModelSection, Recipe, TrainingSection
from fedtune.training.base import Assignment
from fedtune.training.private import PrivateStep
from fedtune.training.resident import Resident
from tests.training.parts import adapted_resident, answer_rows, assignment, image_rows, random_state, text_rows
from tests.training.private_parts import (
    ADAPTERS,
    Given,
    NoNoise,
    SeededNoise,
    distance,
    lively,
    private,
    train_one_by_one,
)

TASKS = {
    "bert": ("sequence-classification", "tiny_bert_folder", text_rows),
    "llama": ("causal-lm", "tiny_llama_folder", answer_rows),
    "gpt2": ("causal-lm", "tiny_gpt2_folder", answer_rows),
    "vit": ("image-classification", "tiny_vit_folder", image_rows),
}
STEPS = ([0, 3, 4, 9, 10], [], [7], list(range(14)))
"""More than one pass, none at all, one row, every row."""


def compare(resident: Resident, share: Assignment, noise: Callable[[], NoiseSource]) -> None:
    """Private steps end where the definition does, to 1e-5 of what each tensor moved and fp32's rounding of it."""
    result = next(PrivateStep(resident, noise=noise(), rows=Given(*STEPS)).train([share]))
    expected = train_one_by_one(resident, share, STEPS, noise())
    assert set(expected) == (set(result.state) if share.trained is None else set(share.trained))
    for name, tensor in expected.items():
        moved = float((tensor - share.state[name]).abs().max())
        assert moved > 1e-4, name
        torch.testing.assert_close(result.state[name], tensor, atol=1e-5 * moved + 3e-7, rtol=0, msg=name)


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("task", TASKS)
def test_steps_are_those_of_one_row_at_a_time(kind: str, task: str, request: pytest.FixtureRequest) -> None:
    """SGD shows the gradient itself; rows are cut into passes of four, and most of them are clipped."""
    name, fixture, make_rows = TASKS[task]
    options = {"steps": 4, "batch_size": 4, "accumulate": 2, "optimizer": "sgd", "lr": 0.1}
    home = lively(adapted_resident(request.getfixturevalue(fixture), ADAPTERS[kind], name, **options))
    compare(private(home, clip=0.5), assignment(home, make_rows(14)), NoNoise)


@pytest.mark.parametrize("clipping", ["flat", "per-layer", "automatic"])
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw", "lr": 1e-3, "schedule": "cosine", "weight_decay": 0.1},
        {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "proximal": 2.0, "warmup_fraction": 0.5},
    ],
)
def test_every_way_to_clip_under_every_optimiser(
    clipping: str, options: dict[str, Any], tiny_bert_folder: Path
) -> None:
    home = lively(adapted_resident(tiny_bert_folder, ADAPTERS["square"], steps=4, batch_size=3, **options))
    home = private(home, clip=0.5, noise_multiplier=0.3, clipping=clipping)
    compare(home, assignment(home, text_rows(14)), lambda: SeededNoise(3))


def test_only_what_a_scheme_trains_is_clipped_noised_and_moved(tiny_bert_folder: Path) -> None:
    home = lively(adapted_resident(tiny_bert_folder, ADAPTERS["lora"], steps=4, optimizer="sgd", lr=0.1))
    share = assignment(home, text_rows(14))
    share = replace(share, trained=tuple(name for name in share.state if "lora_B" in name))
    compare(private(home, clip=0.5), share, lambda: SeededNoise(3))
    result = next(PrivateStep(private(home), rows=Given(*STEPS)).train([share]))
    for name, tensor in result.state.items():
        assert torch.equal(tensor, share.state[name]) == ("lora_B" not in name)


OPACUS = {
    "square": AdapterSection(kind="square", rank=32, targets="attention"),
    "lora": AdapterSection(kind="lora", init="kaiming", rank=8, targets="attention"),
}


@pytest.mark.models
@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("kind", OPACUS)
@pytest.mark.parametrize("clipping", ["flat", "per-layer"])
def test_steps_on_minilm_are_those_of_opacus_own_engine(
    kind: str, clipping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real model, its batches and our noise in Opacus' module and optimiser: the same adapter to 1e-6."""
    home = _minilm(OPACUS[kind], steps=3, batch_size=6, optimizer="sgd", lr=0.5)
    steps = ([0, 1, 2, 5], [3], [2, 3, 4, 5, 6, 7])
    share = assignment(home, text_rows(8, classes=2))
    share = replace(share, state={name: tensor / 5 for name, tensor in random_state(home).items()})
    home = private(home, clip=0.3, noise_multiplier=0.5, clipping=clipping)
    ours = next(PrivateStep(home, noise=SeededNoise(1), rows=Given(*steps)).train([share]))
    theirs = _by_opacus(home, share, steps, clipping, monkeypatch)
    assert distance(ours.state, theirs) <= 1e-6
    assert distance(ours.state, share.state) > 1e-2


def _minilm(section: AdapterSection, **training: Any) -> Resident:
    fetch("minilm", "model")
    model = ModelSection(name="minilm", labels=("a", "b"))
    return Resident.build(Recipe(model=model, adapter=section, training=TrainingSection(device="cpu", **training)))


def _by_opacus(
    home: Resident, share: Assignment, steps: Any, clipping: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer, DPPerLayerOptimizer

    section, parameters = home.recipe.privacy, home.attached.parameters()
    noise = SeededNoise(1)
    left: list[torch.Tensor] = []

    def draw(std: float, reference: torch.Tensor, **_: Any) -> torch.Tensor:
        """Our noise is one draw for all tensors; Opacus asks for one tensor's after the other, in the same order."""
        if not left:
            sizes = [p.numel() for p in parameters.values()]
            left.extend(noise.normal((sum(sizes),)).split(sizes))
        return (left.pop(0).view(reference.shape) * std).float()

    monkeypatch.setattr("opacus.optimizers.optimizer._generate_noise", draw)
    home.attached.load(share.state)
    model = home.attached.model
    module = GradSampleModule(model, strict=False).train()
    for part in model.modules():  # no dropout, as in private steps, but hooks that listen
        part.training = any(p.requires_grad for p in part.parameters(recurse=False))
    make: Callable[..., Any] = DPOptimizer if clipping == "flat" else DPPerLayerOptimizer
    each = [section.clip / len(parameters) ** 0.5] * len(parameters)
    optimizer = make(
        torch.optim.SGD(list(parameters.values()), lr=home.recipe.training.lr),
        noise_multiplier=section.noise_multiplier,
        max_grad_norm=section.clip if clipping == "flat" else each,
        expected_batch_size=home.recipe.training.batch_size,
    )
    try:
        for rows in steps:
            batch = share.rows.batch(rows)
            optimizer.zero_grad()
            module(**batch).loss.backward()
            optimizer.step()
        return home.attached.read()
    finally:
        module.remove_hooks()
        model.eval()
