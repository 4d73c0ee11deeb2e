"""Random-k: values alone travel, both halves agree on where they belong, right in the mean, linear under one seed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.compression.kept import budget
from fedtune.errors import MalformedMessage
from tests.compression.updates import flat, normal, pipeline_of, there_and_back, updates

densities = st.sampled_from([0.05, 0.2, 0.5, 1.0])


@given(updates, densities, st.integers(0, 1000))
def test_a_share_comes_back_times_d_over_k_and_all_else_is_zero(tensors, density, seed):
    sent, back = there_and_back(pipeline_of("random-k", density=density), tensors, seed=seed)
    x, y = flat(tensors), flat(back)
    count = budget(x.size, density)
    assert sent.keys() == {"random-k.values"}
    assert np.count_nonzero(y) == count == len(sent["random-k.values"])
    np.testing.assert_allclose(y[y != 0], x[y != 0] * x.size / max(count, 1), rtol=1e-6)


@given(updates, st.integers(0, 1000))
def test_each_tensor_keeps_its_own_share(tensors, seed):
    _, back = there_and_back(pipeline_of("random-k", density=0.5, threshold="tensor"), tensors, seed=seed)
    for tensor in back.values():
        assert tensor.count_nonzero() == budget(tensor.numel(), 0.5)


@given(st.integers(0, 1000), densities, st.sampled_from(["global", "tensor"]))
def test_sums_may_be_taken_before_or_after(seed, density, threshold):
    pipeline = pipeline_of("rotate", "random-k", density=density, threshold=threshold)
    shapes = {"a": (30,), "b": (4, 5), "c": ()}
    clients = [
        {n: torch.randn(s, generator=torch.Generator().manual_seed(i)) for n, s in shapes.items()} for i in range(3)
    ]
    sent = [pipeline.encode(tensors, seed=seed) for tensors in clients]
    together = pipeline.decode({"random-k.values": sum(s["random-k.values"] for s in sent)}, shapes, seed=seed)
    apart = sum(flat(pipeline.decode(s, shapes, seed=seed)) for s in sent)
    assert pipeline.linear
    np.testing.assert_allclose(flat(together), apart, atol=1e-4)


def test_the_mean_over_seeds_is_the_update_and_the_variance_the_stated_one():
    """One number's variance is x²·(d/k − 1): its mean over n seeds lies within 5 standard errors."""
    tensors, count = normal([(25,), (3, 5)], seed=2), 4000
    pipeline = pipeline_of("random-k", density=0.25)
    x = flat(tensors)
    all_ = np.stack([flat(there_and_back(pipeline, tensors, seed=seed)[1]) for seed in range(count)])
    assert (np.abs(all_.mean(axis=0) - x) <= 5 * np.abs(x) * math.sqrt((4 - 1) / count)).all()
    assert np.square(all_ - x).sum(axis=1).mean() == pytest.approx(3 * np.square(x).sum(), rel=0.05)


def test_another_seed_takes_other_numbers():
    tensors = normal([(1000,)])
    kept = [flat(there_and_back(pipeline_of("random-k"), tensors, seed=seed)[1]) != 0 for seed in (1, 2)]
    assert 0 <= (kept[0] & kept[1]).sum() < 15


def test_the_wrong_seed_does_not_find_the_numbers():
    tensors = normal([(1000,)])
    pipeline = pipeline_of("random-k")
    back = pipeline.decode(pipeline.encode(tensors, seed=1), {"layer.0.w0": (1000,)}, seed=2)
    assert np.abs(flat(back) - 20 * flat(tensors))[flat(back) != 0].max() > 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_values_is_refused(count):
    with pytest.raises(MalformedMessage, match="random-k"):
        pipeline_of("random-k", density=0.5).decode({"random-k.values": torch.ones(count)}, {"w": (4,)}, seed=0)
