"""Each row has its own coin, and rates are never above what is accounted for."""

import math

import pytest
import torch
from scipy import stats

from fedtune.errors import PrivacyError
from fedtune.privacy.keystream import BITS
from fedtune.privacy.rows import PoissonRows


class Listed:
    """A stream of a test's choice."""

    def __init__(self, *integers: int) -> None:
        self.left = list(integers)

    def integers(self, count: int) -> torch.Tensor:
        taken, self.left = self.left[:count], self.left[count:]
        return torch.tensor(taken, dtype=torch.int64)


def with_stream(*integers: int) -> PoissonRows:
    sampler = PoissonRows()
    sampler._stream = Listed(*integers)  # type: ignore[assignment]
    return sampler


@pytest.mark.parametrize("rate", [0.03, 0.5, 0.97])
def test_each_row_is_in_with_the_rate_independently_of_the_others(rate: float) -> None:
    sampler, rows, draws = PoissonRows(), 40, 3000
    chosen = torch.zeros(draws, rows, dtype=torch.float64)
    for step in range(draws):
        chosen[step, sampler.draw(rows, rate)] = 1
    spread = math.sqrt(rate * (1 - rate) / draws)
    assert float((chosen.mean(dim=0) - rate).abs().max()) < 6.8 * spread
    sizes = torch.bincount(chosen.sum(dim=1).long(), minlength=rows + 1).double()
    expected = torch.tensor(stats.binom.pmf(range(rows + 1), rows, rate)) * draws
    common = expected > 10
    statistic = float(((sizes - expected)[common] ** 2 / expected[common]).sum())
    assert stats.chi2.sf(statistic, int(common.sum())) > 1e-9
    between = torch.corrcoef(chosen.T) - torch.eye(rows)
    assert float(between.abs().max()) < 7 / math.sqrt(draws)


def test_the_ends_are_certain() -> None:
    sampler = PoissonRows()
    assert sampler.draw(100, 1.0) == list(range(100))
    assert sampler.draw(100, 0.0) == []
    assert sampler.draw(0, 0.5) == []


@pytest.mark.parametrize("rate", [0.5, 0.1, 1 / 3, 1e-3, 2.0**-60])
def test_the_coin_is_exact_to_53_bits_and_rounds_down(rate: float) -> None:
    below = math.floor(rate * 2**BITS)
    assert below / 2**BITS <= rate
    assert with_stream(below).draw(1, rate) == []
    if below:
        assert with_stream(below - 1).draw(1, rate) == [0]


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(PrivacyError, match="between 0 and 1"):
        PoissonRows().draw(3, rate)
