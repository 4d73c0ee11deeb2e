"""The client's control variate: the paper's update by hand, and what stays where nothing was trained."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.state import State, subtract
from fedtune.training.scaffold import control_change

SHAPES = {"a.R": (3, 3), "b.R": (2, 5), "head.w": (4,)}
seeds = st.integers(0, 10_000)


def draw(seed: int, scale: float = 1.0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in SHAPES.items()}


@given(seeds, st.floats(1e-4, 10.0), st.floats(1e-4, 10.0))
def test_the_update_is_option_two_of_the_paper(seed: int, rate: float, head_rate: float) -> None:
    own, control, start, end = (draw(seed + i) for i in range(4))
    rates = {"a.R": rate, "b.R": rate, "head.w": head_rate}
    after, change = control_change(own, control, start, end, rates)
    for name in SHAPES:
        c_k, c, x, y = (t[name].double().numpy() for t in (own, control, start, end))
        expected = c_k - c + (x - y) / rates[name]
        assert after[name].double().numpy() == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert change[name].double().numpy() == pytest.approx(after[name].double().numpy() - c_k, rel=1e-6, abs=1e-9)
        assert after[name].dtype == change[name].dtype == torch.float32


def test_plain_steps_along_one_gradient_give_that_gradient_back() -> None:
    """x_end = x − Σ ηₜ·(g + c − cₖ) makes cₖ⁺ = g, whatever c and cₖ were."""
    own, control, start, gradient = (draw(i) for i in range(4))
    rates = dict.fromkeys(SHAPES, 0.1 + 0.05 + 0.025)
    end = {n: start[n] - rates[n] * (gradient[n] + control[n] - own[n]) for n in SHAPES}
    after, _ = control_change(own, control, start, end, rates)
    for name in SHAPES:
        torch.testing.assert_close(after[name], gradient[name], atol=2e-5, rtol=1e-5)


def test_a_tensor_that_took_no_step_keeps_its_variate() -> None:
    own, control, start = (draw(i) for i in range(3))
    after, change = control_change(own, control, start, start, dict.fromkeys(SHAPES, 0.0))
    assert set(change) == set(SHAPES)
    for name in SHAPES:
        assert torch.equal(after[name], own[name])
        assert not change[name].any()


def test_a_frozen_tensor_is_not_part_of_the_change() -> None:
    own, control, start, end = (draw(i) for i in range(4))
    after, change = control_change(own, control, start, end, {"b.R": 0.5})
    assert set(change) == {"b.R"}
    assert set(after) == set(SHAPES)
    assert torch.equal(after["a.R"], own["a.R"])
    assert not torch.equal(after["b.R"], own["b.R"])


def test_a_variate_that_is_not_there_yet_is_zero() -> None:
    start, end = draw(0), draw(1)
    zero = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    rates = dict.fromkeys(SHAPES, 0.25)
    new, told = control_change({}, {}, start, end, rates), control_change(zero, zero, start, end, rates)
    for left, right in zip(new, told, strict=True):
        assert all(torch.equal(left[name], right[name]) for name in SHAPES)
    assert all(torch.allclose(new[0][n], subtract(start, end)[n] * 4) for n in SHAPES)


def test_nothing_that_is_given_is_written_to() -> None:
    tensors = [draw(i) for i in range(4)]
    control_change(*tensors, dict.fromkeys(SHAPES, 0.3))
    assert all(torch.equal(given[n], draw(i)[n]) for i, given in enumerate(tensors) for n in SHAPES)
