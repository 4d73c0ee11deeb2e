"""The noise is normal, independent, never the same twice, and added without losing what it hides."""

import copy
import math
import os
from collections.abc import Callable

import pytest
import torch
from scipy import stats

from fedtune.errors import PrivacyError
from fedtune.privacy.keystream import BITS, Keystream
from fedtune.privacy.noise import SecureNoise, add_noise

# The numbers cannot be seeded, so these tests can fail by chance: each threshold is met with probability 1 − 10⁻⁹.
RARE = 1e-9


class Fixed:
    """Noise of a test's choice: the same number everywhere."""

    def __init__(self, value: float) -> None:
        self.value = value

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.full(shape, self.value, dtype=torch.float64)


def test_numbers_are_standard_normal() -> None:
    drawn = SecureNoise().normal((500, 400))
    assert drawn.dtype == torch.float64
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > RARE
    count = drawn.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((drawn**power).mean()) - moment) < 6.2 * math.sqrt(variance / count)
    beyond = float((drawn.abs() > 3).double().mean())
    assert abs(beyond - 0.0026998) < 6.2 * math.sqrt(0.0027 / count)


def test_numbers_are_independent_within_a_draw_and_between_draws() -> None:
    """Correlations of neighbours, of both halves (Box and Muller's pairs), of squares, and of two draws."""
    source = SecureNoise()
    first, second = source.normal((200_000,)), source.normal((200_000,))
    bound = 6.2 / math.sqrt(100_000)
    halves = first[:100_000], first[100_000:]
    for left, right in (halves, (first[:-1], first[1:]), (first, second)):
        for power in (1, 2):
            pair = torch.stack((left**power, right**power))
            assert abs(float(torch.corrcoef(pair)[0, 1])) < bound


def test_no_number_is_drawn_twice() -> None:
    source, other = SecureNoise(), SecureNoise()
    drawn = torch.cat([source.normal((5000,)), source.normal((5000,)), other.normal((5000,))])
    assert len(drawn.unique()) == len(drawn)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 3, 5), (0, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    assert SecureNoise().normal(shape).shape == shape


def test_a_forked_process_draws_other_numbers() -> None:
    """A copy of the generator would give every worker of a pool the same noise, which their sum then takes out."""
    stream = Keystream()
    stream.integers(1)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, repr(stream.integers(4).tolist()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1000).decode() != repr(stream.integers(4).tolist())
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("made", [Keystream(), SecureNoise()])
@pytest.mark.parametrize("repeat", [copy.deepcopy, lambda made: vars(made).get("_stream", made).__reduce_ex__(4)])
def test_a_generator_cannot_be_repeated(repeat: Callable[[object], object], made: object) -> None:
    with pytest.raises(TypeError, match="cannot be copied"):
        repeat(made)


def test_a_shallow_copy_of_a_stream_is_refused_too() -> None:
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.copy(Keystream())


def test_integers_are_uniform_to_the_last_bit() -> None:
    drawn = Keystream().integers(40_000)
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < 2**BITS
    ones = torch.stack([(drawn >> bit) & 1 for bit in range(BITS)]).double().mean(dim=1)
    assert float((ones - 0.5).abs().max()) < 6.8 * 0.5 / math.sqrt(40_000)
    assert stats.kstest(drawn.double().numpy() / 2**BITS, "uniform").pvalue > RARE


def test_noise_is_scaled_added_in_double_precision_and_rounded_once() -> None:
    state = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[1e8]], dtype=torch.float64)}
    noised = add_noise(state, 0.25, Fixed(6.0))
    assert {name: t.tolist() for name, t in noised.items()} == {"a": [2.5, 3.5], "b": [[1e8]]}
    assert all(t.dtype == torch.float32 for t in noised.values())
    # In fp32 these would be 2²⁴ + 1 − 2²⁴ = 0.
    assert add_noise({"a": torch.tensor([-(2.0**24)])}, 1.0, Fixed(2.0**24 + 1))["a"].item() == 1.0
    assert state["a"].tolist() == [1.0, 2.0]


def test_each_tensor_has_noise_of_its_own_and_of_the_asked_size() -> None:
    zeros = {"a": torch.zeros(50_000), "b": torch.zeros(50_000)}
    noised = add_noise(zeros, 3.0, SecureNoise())
    assert abs(float(torch.corrcoef(torch.stack((noised["a"], noised["b"])))[0, 1])) < 6.2 / math.sqrt(50_000)
    for tensor in noised.values():
        assert float(tensor.std()) == pytest.approx(3.0, rel=6.2 / math.sqrt(100_000))


@pytest.mark.parametrize("scale", [-1.0, math.inf, math.nan])
def test_noise_of_an_impossible_size_is_refused(scale: float) -> None:
    with pytest.raises(PrivacyError, match="standard deviation"):
        add_noise({"a": torch.zeros(1)}, scale, SecureNoise())
