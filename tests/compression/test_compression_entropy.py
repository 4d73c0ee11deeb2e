"""Entropy coding gives every symbol back, in the size that their counts allow; whole numbers decode its streams."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedtune.compression import make_pipeline
from fedtune.compression.ans import WHOLE, model_of
from fedtune.compression.base import Form
from fedtune.compression.entropy import Entropy
from fedtune.compression.plane_code import PlaneCode
from fedtune.errors import MalformedMessage, RecipeError
from fedtune.recipe.compression import CompressionSection
from tests.compression import reference_stream
from tests.compression.coded import DENSITIES, MILLION, arrays, coder, decoded, entropy_bytes, stream_of, ternary

ALPHABETS = {
    "mask": (0, 1),
    "ternary": (-1, 0, 1),
    "signs": (-1, 1),
    "int4": tuple(range(-7, 8)),
    "int8": tuple(range(-127, 128)),
    "all": tuple(range(-128, 128)),
    "far apart": (-128, 127),
    "one": (-5,),
}
GOLDEN = {
    "111a3019c805996fd4c80102030140b778504127a15800": [0] * 60 + [1, -1, 0, 0, 1] + [0] * 135,
    "11dfea05b68d029b567804f90a1400000000000050000014e4a0023516012716b2a4dc6f11d0d737f010020d68764900": (
        [-7, 0, 0, 3] * 20 + [0] * 40
    ),
    "1110263c07cdfca9860305807f05": [-128, 127, 5],
}
"""Streams of this version, in hexadecimal: what other machines and later releases must still read and write."""


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
@settings(max_examples=60)
@given(data=st.data())
def test_symbols_come_back(alphabet, data):
    symbols = data.draw(arrays(*alphabet))
    stream = stream_of("entropy", symbols)
    assert np.array_equal(decoded("entropy", stream, len(symbols)), symbols)
    assert len(stream) <= coder("entropy").most_bytes(len(symbols))


@given(symbols=st.lists(st.integers(-128, 127), max_size=300).map(lambda found: np.array(found, np.int8)))
@example(symbols=np.zeros(0, np.int8))
@example(symbols=np.ones(1, np.int8))
def test_any_symbols_come_back(symbols):
    assert np.array_equal(decoded("entropy", stream_of("entropy", symbols), len(symbols)), symbols)


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
@settings(max_examples=20)
@given(data=st.data())
def test_a_decoder_in_whole_numbers_reads_the_same(alphabet, data):
    symbols = data.draw(arrays(*alphabet))[:1000]
    assert reference_stream.decode(stream_of("entropy", symbols)) == symbols.tolist()


@pytest.mark.parametrize("stream", GOLDEN)
def test_the_format_stays_what_it_is(stream):
    symbols = np.array(GOLDEN[stream], np.int8)
    assert bytes(stream_of("entropy", symbols)).hex() == stream
    assert np.array_equal(decoded("entropy", bytearray.fromhex(stream), len(symbols)), symbols)


@pytest.mark.parametrize("positive", [0.5, 1.0, 0.05], ids=["two signs", "one sign", "few negative"])
@pytest.mark.parametrize("density", [*DENSITIES, 0.9])
def test_a_million_symbols_take_their_entropy(density, positive):
    symbols = ternary(MILLION, density, positive=positive)
    stream = stream_of("entropy", symbols)
    assert len(stream) <= 1.005 * entropy_bytes(symbols) + 64
    assert np.array_equal(decoded("entropy", stream, MILLION), symbols)


@pytest.mark.parametrize("steps", [7, 127])
def test_a_million_quantised_numbers_take_their_entropy(steps):
    numbers = np.random.default_rng(0).normal(scale=steps / 3, size=MILLION)
    symbols = np.clip(numbers.round(), -steps, steps).astype(np.int8)
    assert len(stream_of("entropy", symbols)) <= 1.005 * entropy_bytes(symbols) + 64


@pytest.mark.parametrize("count", [1, 10, 100, 1000, 4096])
@pytest.mark.parametrize("density", DENSITIES)
def test_small_tensors_take_their_entropy_and_little_more(count, density):
    symbols = ternary(count, density, seed=count)
    assert len(stream_of("entropy", symbols)) <= 1.005 * entropy_bytes(symbols) + 32


def test_a_run_of_ones_is_no_longer_than_scattered_ones():
    """Bytes of many ones are dearer, but never as dear as each of their ones by itself."""
    run = np.repeat(np.array([0, 1, 0], np.int8), [500_000, 1000, 499_000])
    scattered = np.random.default_rng(0).permutation(run)
    assert len(stream_of("entropy", run)) <= len(stream_of("entropy", scattered))
    assert np.array_equal(decoded("entropy", stream_of("entropy", run), MILLION), run)


def test_symbols_that_nothing_makes_shorter_are_sent_as_they_are():
    symbols = np.random.default_rng(0).permutation(np.arange(-128, 128)).astype(np.int8)
    stream = stream_of("entropy", symbols)
    assert stream[11] == 5
    assert len(stream) == 12 + 256


@given(counts=st.lists(st.integers(0, 2**40), min_size=2, max_size=256).filter(any))
def test_weights_are_whole_and_nothing_is_lost(counts):
    weights = model_of(counts).weights
    exact = np.array([WHOLE * count / sum(counts) for count in counts])
    assert int(weights.sum()) == WHOLE
    assert int(weights.min()) >= 1
    assert bool((np.abs(weights - exact) <= 2 * len(counts)).all())


@given(ones=st.integers(1, 999), seed=st.integers(0, 99))
def test_a_code_costs_what_its_range_says_however_the_ones_lie(ones, seed):
    code = PlaneCode(1000, ones)
    bits = np.random.default_rng(seed).permutation(np.arange(1000) < ones)
    least, most = code.cost_range()
    for plane in (np.packbits(bits), np.packbits(np.sort(bits)), np.packbits(np.sort(bits)[::-1])):
        cost = float(code.model().costs()[plane].sum())
        assert least - 1e-6 <= cost <= most + 1e-6


def test_what_is_no_int8_passes_as_it_is():
    tensors = {"a": torch.randn(3), "b": torch.arange(4, dtype=torch.uint8), "c": torch.zeros(8, dtype=torch.int8)}
    given_ = {name: Form(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    stage = coder("entropy")
    sent, forms = stage.encode(tensors, seed=0), stage.forms(given_)
    assert sent["a"] is tensors["a"]
    assert sent["b"] is tensors["b"]
    assert forms == {"a": given_["a"], "b": given_["b"], "c": Form((8 + 32,), torch.uint8, open=True)}
    assert torch.equal(stage.decode(sent, given_, seed=0)["c"], tensors["c"])


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (4, 0), (2, 3, 4)])
@pytest.mark.parametrize("name", ["entropy", "rice", "bitmask"])
def test_shapes_come_back(name, shape):
    tensor = torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    stage = coder(name)
    back = stage.decode(stage.encode({"w": tensor}, seed=0), {"w": Form(shape, torch.int8)}, seed=0)["w"]
    assert torch.equal(back, tensor)


@pytest.mark.parametrize("name", ["entropy", "rice", "bitmask"])
def test_a_tensor_shorter_than_its_form_comes_back_where_the_form_is_open(name):
    tensor = torch.tensor([[1, 0], [-1, 0], [0, 1]], dtype=torch.int8)
    stage = coder(name)
    form = {"w": Form((9, 2), torch.int8, open=True)}
    sent = stage.encode({"w": tensor}, seed=0)
    assert stage.forms(form)["w"].open
    assert len(sent["w"]) <= stage.forms(form)["w"].shape[0]
    assert torch.equal(stage.decode(sent, form, seed=0)["w"], tensor)
    half_a_row = stage.encode({"w": torch.zeros(5, dtype=torch.int8)}, seed=0)
    with pytest.raises(MalformedMessage, match="holds 5 symbols"):
        stage.decode(half_a_row, form, seed=0)


def test_ternary_updates_are_small_after_entropy():
    """Forty thousand numbers at 5 %: 0.336 bits a number (arXiv 2311.13171)."""
    pipeline = make_pipeline(CompressionSection(upload=("ternary", "entropy"), density=0.05))
    update = {"w": torch.randn(200, 200, generator=torch.Generator().manual_seed(0))}
    sent = pipeline.encode(update, seed=0)
    assert sum(tensor.nbytes for tensor in sent.values()) <= 40_000 * 0.337 / 8 + 64
    plain = make_pipeline(CompressionSection(upload=("ternary",), density=0.05))
    expected = plain.decode(plain.encode(update, seed=0), {"w": (200, 200)}, seed=0)["w"]
    assert torch.equal(pipeline.decode(sent, {"w": (200, 200)}, seed=0)["w"], expected)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(RecipeError, match='install it, or use "rice"'):
        Entropy(CompressionSection())
