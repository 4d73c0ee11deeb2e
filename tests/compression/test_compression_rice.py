"""Rice codes of gaps give every ternary symbol back, in the size that the formula says; other symbols are refused."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedtune.compression.rice import low_bits
from fedtune.errors import RecipeError
from tests.compression.coded import DENSITIES, MILLION, arrays, coder, decoded, entropy_bytes, stream_of, ternary

GOLDEN = "213e61f4080db8db4cc80103010540921070"
GOLDEN_SYMBOLS = [0] * 60 + [1, -1, 0, 0, 1] + [0] * 135


@given(symbols=st.one_of(arrays(-1, 0, 1), arrays(0, 1), arrays(-1, 1), arrays(-1)))
@example(symbols=np.zeros(0, np.int8))
@example(symbols=np.ones(1, np.int8))
def test_symbols_come_back(symbols):
    stream = stream_of("rice", symbols)
    assert np.array_equal(decoded("rice", stream, len(symbols)), symbols)
    assert len(stream) <= coder("rice").most_bytes(len(symbols))


def golomb_bytes(count, density):
    """What independent symbols of two signs take (arXiv 1903.02891): b* and the mean of the unary parts, in float64."""
    golden = (math.sqrt(5) + 1) / 2
    low = max(0, 1 + math.floor(math.log2(math.log(golden - 1) / math.log(1 - density))))
    return count * density * (low + 1 / (1 - (1 - density) ** (2**low)) + 1) / 8


@pytest.mark.parametrize("density", DENSITIES)
def test_a_million_symbols_take_what_the_formula_says(density):
    symbols = ternary(MILLION, density)
    size = len(stream_of("rice", symbols))
    assert size == pytest.approx(golomb_bytes(MILLION, float(np.mean(symbols != 0))), rel=3e-3, abs=32)
    assert size <= 1.02 * entropy_bytes(symbols) + 64


@pytest.mark.parametrize("density", np.linspace(0.02, 0.5, 25))
def test_no_share_below_one_half_takes_much_more(density):
    symbols = ternary(MILLION // 10, density)
    assert len(stream_of("rice", symbols)) <= 1.033 * entropy_bytes(symbols) + 64


@given(count=st.integers(2, 10**9), data=st.data())
def test_no_gap_is_split_higher_than_the_tensor_is_long(count, data):
    """2^b times the number of gaps is at most the number of symbols, which the decoder relies on."""
    nonzeros = data.draw(st.integers(1, count))
    assert nonzeros << low_bits(count, nonzeros) <= count


@given(symbols=st.one_of(arrays(-1, 0, 1), arrays(0, 1), arrays(-1, 1)), seed=st.integers(0, 99))
def test_any_arrangement_keeps_to_two_bits_a_symbol(symbols, seed):
    """Also where gaps are anything but geometric."""
    for order in (symbols, np.sort(symbols), np.random.default_rng(seed).permutation(symbols)):
        assert len(stream_of("rice", order)) <= len(symbols) / 4 + 48


def test_the_format_stays_what_it_is():
    symbols = np.array(GOLDEN_SYMBOLS, np.int8)
    assert bytes(stream_of("rice", symbols)).hex() == GOLDEN
    assert np.array_equal(decoded("rice", bytearray.fromhex(GOLDEN), 200), symbols)


@pytest.mark.parametrize("name", ["rice", "bitmask"])
@pytest.mark.parametrize("symbol", [2, -2, 127, -128])
def test_symbols_beyond_one_are_refused(name, symbol):
    with pytest.raises(RecipeError, match='use "entropy" there'):
        stream_of(name, np.array([0, 1, symbol], np.int8))
