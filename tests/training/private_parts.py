"""What the tests of private steps share: settled recipes, chance of a test's choice, and DP-SGD one row at a time."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from fedtune.privacy.noise import NoiseSource, SecureNoise
from fedtune.recipe import AdapterSection
from fedtune.recipe.privacy import PrivacySection
from fedtune.state import State
from fedtune.training.base import Assignment
from fedtune.training.optimizer import group_parameters, set_rate
from fedtune.training.resident import Resident
from fedtune.training.schedule import rate_factor

ADAPTERS = {
    "square": AdapterSection(kind="square", rank=4, targets="all-linear"),
    "lora": AdapterSection(kind="lora", init="kaiming", rank=3, alpha=6.0, targets="attention"),
    "dropping": AdapterSection(kind="lora", init="kaiming", rank=3, dropout=0.4, targets="attention"),
    "ffa": AdapterSection(kind="lora", init="kaiming", rank=3, freeze_a=True, targets="attention"),
    "ravan": AdapterSection(kind="ravan", init="random", rank=2, heads=3, targets="attention"),
    "prompt": AdapterSection(kind="prompt", init="random", prompt_tokens=3),
}


def private(resident: Resident, **privacy: Any) -> Resident:
    """The same resident under a recipe of example-level privacy."""
    settled = {"unit": "example", "delta": 1e-5, "noise_multiplier": 1.0, "sampling_rate": 0.5, **privacy}
    recipe = resident.recipe.model_copy(update={"privacy": PrivacySection(**settled)})
    return replace(resident, recipe=recipe)


def lively(resident: Resident) -> Resident:
    """The same resident with larger base matrices: at their random start hardly any gradient reaches an adapter."""
    trained = {id(parameter) for parameter in resident.attached.parameters().values()}
    with torch.no_grad():
        for parameter in resident.attached.model.parameters():
            if parameter.ndim > 1 and id(parameter) not in trained:
                parameter.mul_(8)
    return resident


class NoNoise:
    """Zeros, to see the sum behind the noise."""

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        return torch.zeros(tuple(shape), dtype=torch.float64)


class SeededNoise:
    """Normal numbers that can be drawn again."""

    def __init__(self, seed: int) -> None:
        self._draw = torch.Generator().manual_seed(seed)

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        return torch.randn(tuple(shape), generator=self._draw, dtype=torch.float64)


@dataclass
class Counted:
    """A source that counts the numbers drawn from it."""

    source: NoiseSource = field(default_factory=SecureNoise)
    drawn: int = 0
    calls: int = 0

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        self.drawn += math.prod(shape)
        self.calls += 1
        return self.source.normal(shape)


class Given:
    """Rows of a test's choice, step by step."""

    def __init__(self, *steps: Sequence[int]) -> None:
        self._steps = list(steps)
        self.asked: list[tuple[int, float]] = []

    def draw(self, count: int, rate: float) -> list[int]:
        self.asked.append((count, rate))
        return list(self._steps.pop(0))


def train_one_by_one(
    resident: Resident, share: Assignment, steps: Sequence[Sequence[int]], noise: NoiseSource
) -> State:
    """DP-SGD by its definition: each row alone through a model in double precision, no hook, no batch."""
    model, parameters = _double(resident, share)
    section, training = resident.recipe.privacy, resident.recipe.training
    optimizer = _optimizer(parameters, training)
    for done, chosen in enumerate(steps):
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for row in chosen:
            for name, gradient in clipped(_gradient(model, parameters, share, row), section).items():
                total[name] += gradient
        names = sorted(parameters)
        drawn = noise.normal((sum(total[name].numel() for name in names),)) * section.noise_multiplier * section.clip
        for name, part in zip(names, drawn.split([total[name].numel() for name in names]), strict=True):
            noised = total[name] + part.view(total[name].shape)
            parameters[name].grad = noised / (training.batch_size * training.accumulate)
            if training.proximal:
                start = share.state[name].double() if name in share.state else torch.ones_like(parameters[name])
                parameters[name].grad += training.proximal * (parameters[name].detach() - start)
        set_rate(optimizer, rate_factor(training.schedule, done, len(steps), training.warmup_fraction))
        optimizer.step()
    return _read(parameters)


def clipped(gradient: Mapping[str, torch.Tensor], section: PrivacySection) -> dict[str, torch.Tensor]:
    """One row's gradient, clipped by its definition."""
    whole = math.sqrt(sum(float(t.square().sum()) for t in gradient.values()))
    factor = {
        "flat": lambda _: min(1.0, section.clip / max(whole, 1e-300)),
        "per-layer": lambda t: min(1.0, section.clip / math.sqrt(len(gradient)) / max(float(t.norm()), 1e-300)),
        "automatic": lambda _: section.clip / (whole + 0.01),
    }[section.clipping]
    return {name: tensor * factor(tensor) for name, tensor in gradient.items()}


def _double(resident: Resident, share: Assignment) -> tuple[torch.nn.Module, dict[str, torch.nn.Parameter]]:
    resident.attached.load(share.state)
    attached = copy.deepcopy(resident.attached)
    model = attached.model.double().eval()
    parameters = attached.parameters()
    return model, {n: p for n, p in parameters.items() if share.trained is None or n in share.trained}


def _gradient(
    model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter], share: Assignment, row: int
) -> dict[str, torch.Tensor]:
    batch = share.rows.batch([row])
    labels = batch.pop("labels")
    inputs = {name: t.double() if t.is_floating_point() else t for name, t in batch.items()}
    logits = model(**inputs).logits
    if labels.ndim > 1:
        logits, labels = logits[0, :-1], labels[0, 1:]
        logits, labels = logits[labels >= 0], labels[labels >= 0]
    loss = cross_entropy(logits, labels) if len(labels) else logits.sum() * 0
    found = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def _optimizer(parameters: Mapping[str, torch.nn.Parameter], training: Any) -> torch.optim.Optimizer:
    groups = group_parameters(parameters, training)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, foreach=False)
    return torch.optim.AdamW(groups, lr=training.lr, foreach=False)


def _read(parameters: Mapping[str, torch.nn.Parameter]) -> State:
    """The state of what was trained: RAVAN's scales are multiplied in."""
    found = {name: p.detach() for name, p in parameters.items()}
    for name in [name for name in found if name.endswith(".s")]:
        scale = found.pop(name)
        found[f"{name[:-2]}.H"] = scale[:, None, None] * found[f"{name[:-2]}.H"]
    return {name: tensor.float() for name, tensor in found.items()}


def distance(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of any number of the right state."""
    return max(float((left[name] - right[name]).abs().max()) for name in right)
