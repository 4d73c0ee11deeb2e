"""Learning under attack at toy size: with the mean the model is lost, with every robust rule it is learned."""

from collections.abc import Callable
from functools import cache

import pytest
import torch

from fedtune.aggregation import Contribution, Global
from fedtune.recipe.aggregation import AggregationSection
from fedtune.seeds import generator
from simulations.attacks.updates import add_a_little, flip_signs, manipulate_inner_product, send_noise
from tests.aggregation.robust.worlds import finish, frame_for, section_for

CLIENTS, CLASSES, WIDTH, ROWS, ROUNDS = 20, 4, 6, 25, 12
SHAPES = {"head.weight": (CLASSES, WIDTH)}
ROBUST = ["median", "trimmed-mean", "geometric-median", "krum", "multi-krum", "centred-clipping"]

ATTACKS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]] = {
    "sign-flip": lambda _honest, own, _draw: flip_signs(own, 10.0),
    "ipm": lambda honest, own, _draw: manipulate_inner_product(honest, own, 10.0),
    "gaussian": lambda _honest, own, draw: send_noise(own, 30.0, draw),
}


@cache
def rows_for(client):
    """Four classes around four fixed points; the same for every client."""
    centres = 2.0 * torch.randn(CLASSES, WIDTH, generator=generator(1, "centres"))
    labels = torch.arange(ROWS * CLASSES) % CLASSES
    noise = torch.randn(len(labels), WIDTH, generator=generator(1, "rows", client=client))
    return centres[labels] + noise, labels


def local_delta(weight, client):
    """What five steps of gradient descent on the client's rows change."""
    features, labels = rows_for(client)
    trained = weight.clone()
    for _ in range(5):
        gap = (features @ trained.T).softmax(dim=1) - torch.nn.functional.one_hot(labels, CLASSES)
        trained -= 0.2 * gap.T @ features / len(features)
    return trained - weight


def learn(section, attack, attackers):
    """The accuracy on unseen rows after twelve rounds in which the first clients attack."""
    world = Global({"head.weight": torch.zeros(SHAPES["head.weight"])})
    for round_ in range(ROUNDS):
        deltas = torch.stack([local_delta(world.state["head.weight"], f"c{i}").flatten() for i in range(CLIENTS)])
        poison = ATTACKS[attack](deltas[attackers:], deltas[:attackers], generator(2, attack, round_=round_))
        sent = torch.cat([poison, deltas[attackers:]]).unflatten(1, SHAPES["head.weight"])
        updates = [Contribution(f"c{i:02}", {"head.weight": delta}, 1.0) for i, delta in enumerate(sent)]
        world = finish(section, updates, world=world, round_=round_, frame=frame_for(SHAPES))
    features, labels = rows_for("unseen")
    return ((features @ world.state["head.weight"].T).argmax(dim=1) == labels).float().mean().item()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4])
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("rule", ROBUST)
def test_a_robust_rule_learns_under_attack(rule, attack, share):
    assert learn(section_for(rule, attackers=share), attack, round(share * CLIENTS)) > 0.95


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("rule", ROBUST)
def test_so_it_does_after_mixing(rule, attack):
    assert learn(section_for(rule, ("nnm",), attackers=0.3), attack, 6) > 0.95


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_mean_does_not(attack):
    assert learn(AggregationSection(), attack, 6) < 0.75
    assert learn(AggregationSection(), attack, 0) > 0.95


def test_what_hides_in_every_coordinate_moves_the_median_far():
    """Where robustness ends: with 40 % A Little Is Enough the median errs three times as far as without an attack."""
    honest = torch.randn(12, 200, generator=generator(1, "honest"))
    sent = torch.cat([add_a_little(honest, honest[:8], 1.5), honest])
    updates = [Contribution(f"c{i:02}", {"m.R": row}, 1.0) for i, row in enumerate(sent)]
    world, frame = Global({"m.R": torch.zeros(200)}), frame_for({"m.R": (200,)})
    moved = finish(section_for("median", attackers=0.4), updates, world=world, frame=frame).state["m.R"]
    assert (moved - honest.mean(dim=0)).norm() > 3 * (honest.median(dim=0).values - honest.mean(dim=0)).norm()
