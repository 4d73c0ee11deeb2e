"""The optimiser's groups: rates by part, decay on matrices alone."""

import pytest
import torch
from torch import nn

from fedtune.recipe import TrainingSection
from fedtune.training.optimizer import group_parameters, make_optimizer, set_rate

PARAMETERS = {
    "head.classifier.bias": nn.Parameter(torch.ones(3)),
    "head.classifier.weight": nn.Parameter(torch.ones(3, 4)),
    "layer.R": nn.Parameter(torch.ones(4, 4)),
}


def rates(section: TrainingSection) -> dict[str, tuple[float, float]]:
    groups = group_parameters(PARAMETERS, section)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    return {name: found[id(parameter)] for name, parameter in PARAMETERS.items()}


def test_the_head_has_its_own_rate_and_biases_do_not_decay() -> None:
    assert rates(TrainingSection(lr=1e-3, head_lr=5e-3, weight_decay=0.1)) == {
        "head.classifier.bias": (5e-3, 0.0),
        "head.classifier.weight": (5e-3, 0.1),
        "layer.R": (1e-3, 0.1),
    }


def test_without_a_head_rate_everything_learns_alike_in_one_group() -> None:
    assert len(group_parameters(PARAMETERS, TrainingSection(lr=1e-3))) == 1


def test_set_rate_scales_each_group_from_its_own_peak() -> None:
    optimizer = make_optimizer(PARAMETERS, TrainingSection(lr=1e-3, head_lr=1e-2))
    for factor in (0.5, 0.25):
        set_rate(optimizer, factor)
        assert sorted(group["lr"] for group in optimizer.param_groups) == [factor * 1e-3, factor * 1e-2]


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_recipe_names_the_optimiser_and_it_starts_without_memory(name: str, kind: type) -> None:
    optimizer = make_optimizer(PARAMETERS, TrainingSection(optimizer=name, momentum=0.9))
    assert isinstance(optimizer, kind)
    assert not optimizer.state


def test_sgd_takes_its_momentum_and_its_decay_from_the_recipe() -> None:
    """Against the update rule by hand, in float64: v ← μ·v + g + λ·w, w ← w - η·v."""
    weight = nn.Parameter(torch.full((2, 2), 2.0))
    section = TrainingSection(optimizer="sgd", momentum=0.5, weight_decay=0.1, lr=0.2)
    optimizer = make_optimizer({"w": weight}, section)
    expected, velocity = 2.0, 0.0
    for gradient in (1.0, -3.0, 0.5):
        weight.grad = torch.full((2, 2), gradient)
        optimizer.step()
        velocity = 0.5 * velocity + gradient + 0.1 * expected
        expected -= 0.2 * velocity
    assert weight.detach().double() == pytest.approx(torch.full((2, 2), expected).double().numpy(), abs=1e-6)
