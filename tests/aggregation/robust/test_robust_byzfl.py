"""The rules and attacks against byzfl 0.0.11, the catalogue of them; skipped where it is not installed.

`pip install --no-deps byzfl==0.0.11` is enough: what is compared here does not use the torchvision and seaborn that it
asks for, and is loaded without the package's own imports. Where a definition differs the test says so, and compares
what is left.
"""

import importlib
import importlib.util
import sys
import types

import numpy as np
import pytest
import torch

from fedtune.aggregation.robust.buckets import average_buckets
from fedtune.aggregation.robust.clipping import centred_clipping
from fedtune.aggregation.robust.columns import squared_distances
from fedtune.aggregation.robust.coordinates import median, trimmed_mean
from fedtune.aggregation.robust.geometric import geometric_median
from fedtune.aggregation.robust.krum import krum, scores
from fedtune.aggregation.robust.mixing import mix_neighbours
from fedtune.seeds import generator
from simulations.attacks.updates import add_a_little, flip_signs, manipulate_inner_product, send_noise

found = importlib.util.find_spec("byzfl")
if found is None or found.submodule_search_locations is None:
    pytest.skip("byzfl is not installed", allow_module_level=True)
bare = types.ModuleType("byzfl")
bare.__path__ = list(found.submodule_search_locations)
sys.modules["byzfl"] = bare
rules = importlib.import_module("byzfl.aggregators.aggregators")
before = importlib.import_module("byzfl.aggregators.preaggregators")
attacks = importlib.import_module("byzfl.attacks.attacks")

ROUNDS = [(7, 1, 2), (9, 5, 3), (12, 40, 1), (21, 7, 9)]


@pytest.fixture(params=ROUNDS, ids=str)
def matrix_and_f(request):
    rows, width, f = request.param
    return torch.randn(rows, width, generator=generator(rows, "byzfl"), dtype=torch.float64), f


def agree(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)


def test_median_and_trimmed_mean_agree(matrix_and_f):
    matrix, f = matrix_and_f
    agree(median(matrix), rules.Median()(matrix.numpy()))
    agree(trimmed_mean(matrix, f), rules.TrMean(f)(matrix.numpy()))


def test_the_geometric_medians_agree_once_byzfl_goes_on_to_the_end(matrix_and_f):
    """Its own defaults stop after three steps from zero with ν = 0.1, ours where nothing moves."""
    matrix, _ = matrix_and_f
    agree(geometric_median(matrix), rules.GeometricMedian(nu=1e-9, T=20_000)(matrix.numpy()), 1e-5)


def test_krum_agrees_over_as_many_neighbours(matrix_and_f):
    """byzfl takes K − f − 1 neighbours, the paper one fewer: its Krum for f + 1 is ours for f."""
    matrix, f = matrix_and_f
    agree(krum(matrix, f), rules.Krum(f + 1)(matrix.numpy()))


def test_the_scores_of_multi_krum_agree(matrix_and_f):
    matrix, f = matrix_and_f
    chosen = scores(squared_distances(matrix), len(matrix) - f - 1).argsort()[: len(matrix) - f]
    agree(matrix[chosen].mean(dim=0), rules.MultiKrum(f)(matrix.numpy()))


@pytest.mark.parametrize("radius", [0.3, 2.0, 100.0])
def test_centred_clipping_agrees_from_zero(matrix_and_f, radius):
    matrix, _ = matrix_and_f
    expected = rules.CenteredClipping(L=3, tau=radius)(matrix.numpy())
    agree(centred_clipping(matrix, torch.zeros(matrix.shape[1]), radius=radius, steps=3), expected)


def test_centred_clipping_goes_on_from_its_last_result_as_byzfls_does(matrix_and_f):
    matrix, _ = matrix_and_f
    theirs, ours = rules.CenteredClipping(L=2, tau=0.5), torch.zeros(matrix.shape[1], dtype=torch.float64)
    for _ in range(3):
        ours = centred_clipping(matrix, ours, radius=0.5, steps=2)
        expected = theirs(matrix.numpy())
    agree(ours, expected)


def test_mixing_agrees(matrix_and_f):
    matrix, f = matrix_and_f
    agree(mix_neighbours(matrix, f), before.NNM(f)(matrix.numpy()))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_buckets_agree_on_the_same_permutation(matrix_and_f, size, monkeypatch):
    matrix, _ = matrix_and_f
    drawn = torch.randperm(len(matrix), generator=generator(3, "buckets")).numpy()
    monkeypatch.setattr(np.random, "permutation", lambda rows: rows[drawn])
    agree(average_buckets(matrix, size, generator(3, "buckets")), before.Bucketing(size)(matrix.numpy()))


def test_the_attacks_agree(matrix_and_f):
    honest, f = matrix_and_f
    own = honest.mean(dim=0).expand(f, -1)
    ours_and_theirs = [
        (flip_signs(own), attacks.SignFlipping()),
        (manipulate_inner_product(honest, own, 0.5), attacks.InnerProductManipulation(0.5)),
        (add_a_little(honest, own, 1.5), attacks.ALittleIsEnough(1.5)),
    ]
    for sent, attack in ours_and_theirs:
        assert sent.shape == own.shape
        for row in sent:
            agree(row, attack(honest.numpy()))


def test_the_noise_has_the_same_distribution():
    sent = send_noise(torch.zeros(2, 20_000), 3.0, generator(1, "noise"))
    theirs = attacks.Gaussian(sigma=3.0)(np.zeros((2, 20_000)))
    assert sent.std().item() == pytest.approx(theirs.std(), rel=0.05)
    assert abs(sent.mean()) < 0.1
