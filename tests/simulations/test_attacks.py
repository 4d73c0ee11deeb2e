"""The attacks send what their papers say, one row an attacker."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fedtune.seeds import generator
from simulations.attacks import ATTACKS, flip_labels
from simulations.attacks.updates import add_a_little, flip_signs, little_enough, manipulate_inner_product

HONEST = torch.randn(8, 5, generator=generator(1, "honest"), dtype=torch.float64)
OWN = torch.randn(3, 5, generator=generator(1, "own"), dtype=torch.float64)


def test_labels_are_counted_from_the_other_end():
    labels = torch.arange(10)
    assert flip_labels(labels, 10).tolist() == list(range(9, -1, -1))
    assert torch.equal(flip_labels(flip_labels(labels, 10), 10), labels)


def test_each_attacker_turns_its_own_update_round():
    np.testing.assert_allclose(flip_signs(OWN, 4.0), -4 * OWN.numpy())


@pytest.mark.parametrize(("epsilon", "turned"), [(0.5, False), (2.5, False), (3.0, True)])
def test_the_inner_product_with_the_honest_mean_turns_negative_above_honest_over_attackers(epsilon, turned):
    """8 honest and 3 attackers: from ε = 8/3 on."""
    mean = HONEST.mean(dim=0)
    sent = torch.cat([HONEST, manipulate_inner_product(HONEST, OWN, epsilon)])
    assert (sent.mean(dim=0) @ mean < 0).item() == turned


def test_a_little_is_so_many_standard_deviations():
    sent = add_a_little(HONEST, OWN, 1.5).numpy()
    expected = HONEST.numpy().mean(axis=0) + 1.5 * HONEST.numpy().std(axis=0, ddof=1)
    np.testing.assert_allclose(sent, np.stack([expected] * 3))


@pytest.mark.parametrize(("clients", "attackers", "share"), [(50, 24, 24 / 26), (20, 8, 9 / 12), (51, 12, 25 / 39)])
def test_the_papers_z_wins_a_majority(clients, attackers, share):
    """50 clients and 24 attackers need two honest ones to win: all but 2 of 26 lie below."""
    assert little_enough(clients, attackers) == pytest.approx(norm.ppf(share))


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_gives_a_row_an_attacker_and_repeats_itself(name):
    first, again = (ATTACKS[name](HONEST, OWN, generator(5, "attack")) for _ in range(2))
    assert first.shape == OWN.shape
    assert torch.equal(first.nan_to_num(7.0), again.nan_to_num(7.0))
    assert bool(first.isfinite().all()) == (name != "non-finite")


def test_noise_differs_between_attackers_and_non_finite_sends_both_kinds():
    noise = ATTACKS["gaussian"](HONEST, OWN, generator(5, "attack"))
    assert not torch.equal(noise[0], noise[1])
    poison = ATTACKS["non-finite"](HONEST, OWN, generator(5, "attack"))
    assert poison[0].isnan().all()
    assert poison[1].isinf().all()
