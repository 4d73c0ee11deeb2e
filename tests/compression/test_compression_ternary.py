"""ComPEFT: exactly the largest share, as signs and the scale that the recipe names; what cannot be is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.compression.kept import budget
from fedtune.errors import MalformedMessage
from tests.compression.updates import flat, norm, normal, pipeline_of, there_and_back, updates

DENSITIES = st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.29, 0.5, 1.0])
BAD = {
    "a symbol of two": {"ternary.symbols": torch.tensor([0, 2, 0, 0], dtype=torch.int8)},
    "a symbol of minus two": {"ternary.symbols": torch.tensor([0, -2, 0, 0], dtype=torch.int8)},
    "the lowest int8": {"ternary.symbols": torch.tensor([0, -128, 0, 0], dtype=torch.int8)},
    "too many symbols": {"ternary.symbols": torch.tensor([1, -1, 1, 0], dtype=torch.int8)},
    "a scale of NaN": {"ternary.scale": torch.tensor([math.nan])},
    "an infinite scale": {"ternary.scale": torch.tensor([math.inf])},
    "a scale too many": {"ternary.scale": torch.ones(2)},
    "scales in double": {"ternary.scale": torch.ones(1, dtype=torch.float64)},
    "a number too few": {"ternary.symbols": torch.zeros(3, dtype=torch.int8)},
    "symbols as int32": {"ternary.symbols": torch.zeros(4, dtype=torch.int32)},
    "a foreign tensor": {"w": torch.zeros(4)},
}


def allowed(size, density):
    """⌊density·d⌋ in whole numbers, and at least one of any."""
    return max(size * round(density * 100) // 100, min(size, 1))


@given(st.integers(1, 300), DENSITIES, st.integers(0, 1000), st.sampled_from([1e-6, 0.3, 40.0]))
def test_a_ternary_update_of_the_right_density_comes_back_as_it_is(size, density, seed, scale):
    draw = torch.Generator().manual_seed(seed)
    vector = torch.zeros(size)
    places = torch.randperm(size, generator=draw)[: allowed(size, density)]
    vector[places] = scale * (torch.randint(2, (len(places),), generator=draw) * 2.0 - 1)
    tensors = {"b": vector[: size // 2], "a": vector[size // 2 :]}
    _, back = there_and_back(pipeline_of("ternary", density=density), tensors)
    np.testing.assert_allclose(flat(back), flat(tensors), rtol=1e-6)


@given(updates)
def test_all_kept_at_alpha_one_gives_the_signs_times_the_deviation(tensors):
    _, back = there_and_back(pipeline_of("ternary", density=1.0, scale="sigma"), tensors)
    numbers = flat(tensors)
    deviation = numbers.std() if numbers.size else 0.0
    np.testing.assert_allclose(flat(back), deviation * np.sign(numbers), rtol=1e-6)


@given(updates, DENSITIES, st.sampled_from([0.5, 1.0, 4.0]))
def test_the_norm_is_the_one_of_the_scale_and_the_support(tensors, density, alpha):
    """‖x̂‖ = α·σ·√k: a bound on the sensitivity that needs no look at the data but σ."""
    _, back = there_and_back(pipeline_of("ternary", density=density, scale="sigma", alpha=alpha), tensors)
    numbers = flat(tensors)
    if numbers.size:
        expected = alpha * numbers.std() * math.sqrt(allowed(numbers.size, density))
        assert norm(back) == pytest.approx(expected, rel=1e-5, abs=1e-12)


@given(updates, DENSITIES, st.sampled_from(["global", "tensor"]))
def test_the_support_is_the_largest_numbers_and_exactly_so_many(tensors, density, threshold):
    sent, _ = there_and_back(pipeline_of("ternary", density=density, threshold=threshold), tensors)
    numbers, symbols = flat(tensors), sent["ternary.symbols"].numpy()
    sizes = [tensors[name].numel() for name in sorted(tensors)] if threshold == "tensor" else [numbers.size]
    edges = np.cumsum(sizes)[:-1]
    for x, s in zip(np.split(numbers, edges), np.split(symbols, edges), strict=True):
        assert np.count_nonzero(s) == allowed(x.size, density)
        assert np.array_equal(s[s != 0], np.sign(x[s != 0]))
        assert np.abs(x[s != 0]).min(initial=np.inf) >= np.abs(x[s == 0]).max(initial=0)


@pytest.mark.parametrize("density", [0.05, 0.29, 0.5])
def test_of_equal_magnitudes_the_first_are_kept(density):
    tensors = {"w": torch.ones(100) * torch.tensor([1.0, -1.0]).repeat(50)}
    symbols = pipeline_of("ternary", density=density).encode(tensors, seed=0)["ternary.symbols"]
    count = round(density * 100)
    assert symbols[:count].abs().tolist() == [1] * count
    assert symbols[count:].tolist() == [0] * (100 - count)


def test_the_density_is_the_decimal_that_was_written():
    assert [budget(100, 0.29), budget(100, 0.57), budget(1000, 0.007), budget(5, 0.01), budget(0, 0.5)] == [
        29,
        57,
        7,
        1,
        0,
    ]


@given(st.permutations(range(1, 41)), st.floats(1e-20, 1e20))
def test_the_kept_set_does_not_depend_on_the_scale_of_the_update(numbers, factor):
    tensors = {"w": torch.tensor(numbers, dtype=torch.float32)}
    scaled = {"w": tensors["w"] * factor}
    pipeline = pipeline_of("ternary", density=0.2)
    symbols = [pipeline.encode(x, seed=0)["ternary.symbols"] for x in (tensors, scaled)]
    assert torch.equal(*symbols)


@given(updates, DENSITIES, st.sampled_from(["global", "tensor"]))
def test_the_least_squares_scale_leaves_the_least_error(tensors, density, threshold):
    sent, back = there_and_back(pipeline_of("ternary", density=density, threshold=threshold), tensors)
    numbers, symbols = flat(tensors), sent["ternary.symbols"].double().numpy()
    sizes = [tensors[name].numel() for name in sorted(tensors)] if threshold == "tensor" else [numbers.size]
    columns = np.zeros((numbers.size, len(sizes)))
    for column, (end, size) in enumerate(zip(np.cumsum(sizes), sizes, strict=True)):
        columns[end - size : end, column] = symbols[end - size : end]
    best = np.linalg.lstsq(columns, numbers, rcond=None)[0]
    np.testing.assert_allclose(sent["ternary.scale"].numpy(), best, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(flat(back), columns @ best, rtol=1e-6, atol=1e-12)


def test_sigma_is_of_the_whole_update_even_where_each_tensor_is_cut():
    tensors = {"small": torch.tensor([1e-3]), "large": torch.tensor([3.0, -4.0, 5.0])}
    sent, back = there_and_back(pipeline_of("ternary", threshold="tensor", scale="sigma", alpha=2.0), tensors)
    assert sent["ternary.scale"].tolist() == pytest.approx([2 * flat(tensors).std()])
    assert back["small"].item() == sent["ternary.scale"].item()


@pytest.mark.parametrize("scale", ["least-squares", "sigma"])
def test_nothing_learned_is_sent_as_nothing(scale):
    sent, back = there_and_back(pipeline_of("ternary", scale=scale), {"w": torch.zeros(50), "v": torch.zeros(0)})
    assert sent["ternary.scale"].tolist() == [0.0]
    assert not sent["ternary.symbols"].any()
    assert not flat(back).any()


def test_zeros_that_fill_up_the_share_do_not_lower_the_scale():
    tensors = {"w": torch.tensor([0.0, 3.0, 0.0, -5.0, 0.0, 0.0, 0.0, 0.0])}
    sent, back = there_and_back(pipeline_of("ternary", density=0.5), tensors)
    assert sent["ternary.scale"].tolist() == [4.0]
    assert back["w"].nonzero().flatten().tolist() == [1, 3]


def test_the_order_is_by_name_not_by_arrival():
    tensors = normal([(5,), (3, 2), ()])
    turned = dict(reversed(tensors.items()))
    pipeline = pipeline_of("ternary", density=0.5)
    one, other = pipeline.encode(tensors, seed=0), pipeline.encode(turned, seed=0)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["ternary.symbols"].nonzero().flatten().tolist() == sorted(np.argsort(-np.abs(flat(tensors)))[:6])


def test_the_update_is_not_written_to():
    tensors = normal([(20,)])
    before = tensors["layer.0.w0"].clone()
    pipeline_of("ternary").encode(tensors, seed=0)
    assert torch.equal(tensors["layer.0.w0"], before)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_what_no_client_makes_is_refused(bad):
    pipeline = pipeline_of("ternary", density=0.5)
    sent = pipeline.encode({"w": torch.tensor([3.0, -2.0, 1.0, 0.5])}, seed=0)
    with pytest.raises(MalformedMessage, match=r"the update h|is not what stage"):
        pipeline.decode({**sent, **bad}, {"w": (4,)}, seed=0)


def test_a_number_that_is_none_is_refused_by_the_server():
    pipeline = pipeline_of("ternary")
    sent = pipeline.encode({"w": torch.tensor([1.0, math.nan] * 20)}, seed=0)
    with pytest.raises(MalformedMessage, match="NaN or infinite"):
        pipeline.decode(sent, {"w": (40,)}, seed=0)


def test_too_many_of_one_tensor_are_refused_where_each_is_cut():
    pipeline = pipeline_of("ternary", density=0.5, threshold="tensor")
    sent = {"ternary.symbols": torch.tensor([1, 1, 0, 0], dtype=torch.int8), "ternary.scale": torch.ones(2)}
    with pytest.raises(MalformedMessage, match="more than the 1 numbers"):
        pipeline.decode(sent, {"a": (2,), "b": (2,)}, seed=0)
