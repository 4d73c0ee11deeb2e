"""Banded noise: sensitivity by brute force, rows against a dense inverse, error against independent noise."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import fractional_matrix_power, toeplitz

from fedtune.errors import PrivacyError
from fedtune.privacy.banded import BandedNoise, coefficients
from fedtune.privacy.plan import separated_participations


class Seeded:
    """A source of standard normal numbers that a test can repeat."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, shape):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)


def strategy(rounds, bands):
    """C as a dense matrix."""
    column = np.zeros(rounds)
    used = min(rounds, bands)
    column[:used] = coefficients(bands)[:used]
    return toeplitz(column, np.zeros(rounds))


def separated(rounds, bands):
    """Every set of rounds that are `bands` or more apart."""
    for size in range(rounds + 1):
        for chosen in itertools.combinations(range(rounds), size):
            if all(later - earlier >= bands for earlier, later in itertools.pairwise(chosen)):
                yield chosen


def worst(matrix, patterns):
    """The largest ‖Σ ±C[:, t]‖ over patterns and signs: a client's updates are the corners of a cube, one number each.

    The norm is convex in the updates, so no updates within the clip do more than some corner.
    """
    largest = 0.0
    for chosen in patterns:
        for signs in itertools.product((1, -1), repeat=len(chosen)):
            largest = max(largest, np.linalg.norm(matrix[:, chosen] @ np.array(signs)) if chosen else 0.0)
    return largest


@pytest.mark.parametrize("bands", [1, 2, 3, 5])
@pytest.mark.parametrize("rounds", [1, 4, 9])
def test_no_separated_participation_moves_the_strategy_by_more_than_the_root_of_its_number(rounds, bands):
    most = separated_participations(rounds, bands)
    found = worst(strategy(rounds, bands), separated(rounds, bands))
    assert found <= math.sqrt(most) * (1 + 1e-12)
    assert max(len(chosen) for chosen in separated(rounds, bands)) == most


def test_the_root_is_reached_where_whole_columns_fit():
    assert worst(strategy(9, 3), separated(7, 3)) == pytest.approx(math.sqrt(3), rel=1e-12)


def test_a_client_that_comes_back_too_early_breaks_the_bound():
    matrix = strategy(8, 4)
    early = [(0, 3, 7)]
    assert worst(matrix, early) > math.sqrt(3)
    assert worst(matrix, separated(8, 4)) <= math.sqrt(2) * (1 + 1e-12)


def test_vectors_within_the_clip_do_no_more_than_signs():
    draw = np.random.default_rng(3)
    matrix = strategy(9, 3)
    for chosen in separated(9, 3):
        updates = draw.normal(size=(len(chosen), 4))
        updates /= np.maximum(1, np.linalg.norm(updates, axis=1, keepdims=True))
        assert np.linalg.norm(matrix[:, chosen] @ updates) <= math.sqrt(3)


def test_the_coefficients_are_those_of_the_root_of_the_prefix_sum():
    root = fractional_matrix_power(np.tril(np.ones((6, 6))), 0.5).real
    whole = np.array(coefficients(6))
    np.testing.assert_allclose(whole / whole[0], root[:, 0], rtol=1e-6)
    assert np.linalg.norm(coefficients(4)) == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize("bands", [1, 2, 4, 7])
def test_streamed_rows_are_those_of_the_inverse_times_independent_noise(bands):
    rounds, shapes = 6, {"a": (2, 3), "b": (5,)}
    noise = BandedNoise(Seeded(1), 1.5, bands)
    streamed = [noise.row(index, shapes) for index in range(rounds)]
    same = Seeded(1)
    z = [{name: same.normal(shape) * 1.5 for name, shape in shapes.items()} for _ in range(rounds)]
    inverse = np.linalg.inv(strategy(rounds, bands))
    for name in shapes:
        expected = np.tensordot(inverse, np.stack([row[name].numpy() for row in z]), axes=1)
        np.testing.assert_allclose(np.stack([row[name].numpy() for row in streamed]), expected, atol=1e-12)


def test_over_consecutive_rows_the_strategy_gives_independent_noise_back():
    rounds, bands, numbers = 6, 3, 20_000
    noise = BandedNoise(Seeded(2), 2.0, bands)
    rows = np.stack([noise.row(index, {"w": (numbers,)})["w"].numpy() for index in range(rounds)])
    z = strategy(rounds, bands) @ rows
    assert stats.kstest(z.reshape(-1) / 2.0, "norm").pvalue > 1e-4
    correlation = np.corrcoef(z) - np.eye(rounds)
    assert np.abs(correlation).max() < 5 / math.sqrt(numbers)


@pytest.mark.parametrize(("rounds", "bands"), [(4, 2), (16, 4), (64, 8), (256, 64)])
def test_prefix_sums_have_less_noise_than_independent_noise_of_the_same_privacy(rounds, bands):
    """Both have sensitivity √k for k participations, so equal noise multipliers are equal ε."""
    prefix = np.tril(np.ones((rounds, rounds)))
    banded = np.linalg.norm(prefix @ np.linalg.inv(strategy(rounds, bands)))
    independent = np.linalg.norm(prefix)
    assert banded < independent
    if bands >= 8:
        assert banded < 0.6 * independent


def test_the_measured_error_of_the_running_sum_is_the_analytic_one():
    rounds, bands, numbers = 24, 6, 4000
    noise = BandedNoise(Seeded(4), 1.0, bands)
    rows = np.stack([noise.row(index, {"w": (numbers,)})["w"].numpy() for index in range(rounds)])
    measured = (np.cumsum(rows, axis=0) ** 2).mean(axis=1)
    analytic = (np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(strategy(rounds, bands))) ** 2
    np.testing.assert_allclose(measured, analytic.sum(axis=1), rtol=6 * math.sqrt(2 / numbers))


def test_no_row_is_drawn_twice():
    noise = BandedNoise(Seeded(), 1.0, 3)
    noise.row(4, {"w": (2,)})
    for index in (4, 3):
        with pytest.raises(PrivacyError, match="a row of its own"):
            noise.row(index, {"w": (2,)})


def test_a_row_after_a_gap_and_a_new_process_start_a_block_that_owes_nothing_to_the_rows_before():
    """An aborted row is left out: the next one is z over the diagonal, with nothing of the earlier rows in it."""
    shapes = {"w": (50_000,)}
    noise = BandedNoise(Seeded(6), 1.0, 4)
    before = [noise.row(index, shapes)["w"] for index in range(4)]
    after = noise.row(5, shapes)["w"]
    assert after.std().item() == pytest.approx(1 / coefficients(4)[0], rel=0.03)
    assert all(abs(np.corrcoef(after, row)[0, 1]) < 5 / math.sqrt(50_000) for row in before)
    resumed = BandedNoise(Seeded(7), 1.0, 4).row(9, shapes)["w"]
    assert resumed.std().item() == pytest.approx(1 / coefficients(4)[0], rel=0.03)


def test_a_restart_midway_costs_little_of_what_the_correlation_gains():
    prefix = np.tril(np.ones((64, 64)))
    blocks = np.zeros((64, 64))
    blocks[:32, :32] = blocks[32:, 32:] = strategy(32, 8)
    whole, restarted = (np.linalg.norm(prefix @ np.linalg.inv(matrix)) for matrix in (strategy(64, 8), blocks))
    assert restarted / whole == pytest.approx(1.057, abs=0.002)


@pytest.mark.parametrize("crash", [1, 2, 3, 5, 6])
def test_blocks_keep_the_bound_over_aborted_rows_where_a_history_that_is_drawn_on_from_would_not(crash):
    """Brute force over a crash in row `crash`: blocks of rows, against redoing the row on the old history."""
    rows, bands = 8, 3
    blocks = np.zeros((rows, rows))
    blocks[:crash, :crash] = strategy(crash, bands)
    blocks[crash:, crash:] = strategy(rows - crash, bands)
    most = separated_participations(rows, bands)
    assert worst(blocks, separated(rows, bands)) <= math.sqrt(most) * (1 + 1e-12)
    # The aborted attempt sees its own update beside the earlier ones, and so does the one that is made up for it.
    whole = strategy(rows, bands)
    redone = np.zeros((rows + 1, rows + 1))
    others = [row for row in range(rows + 1) if row != crash]
    redone[np.ix_(others, others)] = whole
    redone[crash, :crash] = whole[crash, :crash]
    redone[crash, crash] = whole[0, 0]
    assert np.linalg.norm(redone[:, crash - 1]) > 1.0
