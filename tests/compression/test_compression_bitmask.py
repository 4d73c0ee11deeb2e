"""Two masks give every ternary symbol back, always in the same size, and add up in memory as the symbols do."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fedtune.compression.base import Form
from fedtune.compression.bitmask import read_masks
from fedtune.compression.masks import add_scaled, masks_of, symbols_of
from tests.compression.coded import arrays, coder, decoded, form_of, stream_of, ternary

GOLDEN = "31d8217f1bae5610200f04400200"
GOLDEN_SYMBOLS = [0] * 5 + [1, -1, 0, 0, 1] + [0] * 5
CACHE = 1 << 18


@given(symbols=st.one_of(arrays(-1, 0, 1), arrays(0, 1), arrays(-1)))
@example(symbols=np.zeros(0, np.int8))
@example(symbols=np.ones(1, np.int8))
def test_symbols_come_back_from_streams_of_one_length(symbols):
    stream = stream_of("bitmask", symbols)
    assert coder("bitmask").forms({"w": form_of(len(symbols))}) == {"w": Form((len(stream),), torch.uint8)}
    assert np.array_equal(decoded("bitmask", stream, len(symbols)), symbols)


@pytest.mark.parametrize("count", [CACHE - 1, CACHE, CACHE + 3, 3 * CACHE + 9])
def test_symbols_come_back_from_more_than_is_unpacked_at_once(count):
    symbols = ternary(count, 0.3)
    assert np.array_equal(symbols_of(masks_of(symbols)), symbols)


@given(symbols=arrays(-1, 0, 1), scale=st.floats(-100, 100, width=32), seed=st.integers(0, 99))
def test_masks_add_what_their_symbols_would(symbols, scale, seed):
    total = torch.randn(len(symbols), generator=torch.Generator().manual_seed(seed))
    expected = total.numpy().astype(np.float64) + scale * symbols.astype(np.float64)
    add_scaled(total, masks_of(symbols), scale)
    assert np.array_equal(total.numpy(), expected.astype(np.float32))


def test_many_updates_add_up_as_in_double_precision():
    count, updates = CACHE + 11, 20
    total = torch.zeros(count // 11, 11) if count % 11 == 0 else torch.zeros(count)
    exact = np.zeros(count)
    for seed in range(updates):
        symbols, scale = ternary(count, 0.1, seed=seed), 0.01 * (seed + 1)
        stream = stream_of("bitmask", symbols)
        add_scaled(total, read_masks(stream, form_of(count)), scale)
        exact += scale * symbols
    assert np.abs(total.reshape(-1).numpy() - exact).max() <= updates * np.finfo(np.float32).eps


def test_reading_masks_copies_nothing():
    stream = stream_of("bitmask", ternary(1000, 0.1))
    masks = read_masks(stream, form_of(1000))
    assert np.shares_memory(masks.positive, stream)
    assert np.shares_memory(masks.negative, stream)


def test_the_format_stays_what_it_is():
    symbols = np.array(GOLDEN_SYMBOLS, np.int8)
    assert bytes(stream_of("bitmask", symbols)).hex() == GOLDEN
    assert np.array_equal(decoded("bitmask", bytearray.fromhex(GOLDEN), 15), symbols)
