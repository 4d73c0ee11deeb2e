"""Modes and random states are put back as they were, whatever happens in between."""

import pytest
import torch
from torch import nn

from fedtune.training.mode import in_mode
from fedtune.training.randomness import seeded

CPU = torch.device("cpu")


def check_and_fail(good: bool) -> None:
    assert good
    raise ZeroDivisionError


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_each_module_gets_its_own_mode_back_even_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    model[1].eval()
    before = modes(model)
    with pytest.raises(ZeroDivisionError), in_mode(model, training=True):
        check_and_fail(all(modes(model)))
    assert modes(model) == before


def test_a_batch_norm_keeps_its_statistics_through_training() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    with in_mode(model, training=True):
        model(torch.randn(8, 4) + 100).sum().backward()
        assert model.training
    assert model[0].running_mean.tolist() == [0.0] * 4
    assert model[0].training


def test_seeded_draws_repeat_and_leave_the_outer_stream_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draws = []
    for seed in (7, 7, 8):
        with seeded(CPU, seed):
            draws.append(torch.rand(5).tolist())
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(torch.rand(3), expected)


def test_the_outer_stream_goes_on_after_an_error() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(CPU, 3):
        check_and_fail(bool(torch.rand(10).sum() > 0))
    assert torch.equal(torch.get_rng_state(), state)
