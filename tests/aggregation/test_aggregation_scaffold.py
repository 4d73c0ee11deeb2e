"""SCAFFOLD as a whole, client's and coordinator's halves together: on quadratics it finds what FedAvg misses."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.aggregation.base import Contribution, Frame, Global
from fedtune.aggregation.control import ControlSum
from fedtune.aggregation.mean import Mean
from fedtune.errors import WeightOutOfRange
from fedtune.state import State
from fedtune.training.scaffold import control_change

NAME, SIZE = "m.R", 4


@dataclass(frozen=True)
class Quadratic:
    """f(x) = ½·(x − a)ᵀ·H·(x − a)."""

    curvature: torch.Tensor
    centre: torch.Tensor

    def gradient(self, x: torch.Tensor) -> torch.Tensor:
        return self.curvature @ (x - self.centre)


def quadratics(count: int, seed: int) -> list[Quadratic]:
    """Clients that disagree about the place and the shape of the valley."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        root = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
        curvature = root @ root.T / SIZE + 0.2 * torch.eye(SIZE, dtype=torch.float64)
        centre = 3 * torch.randn(SIZE, 1, generator=generator, dtype=torch.float64)
        found.append(Quadratic(curvature, centre))
    return found


def optimum(clients: list[Quadratic]) -> torch.Tensor:
    """Where the mean of the gradients is zero."""
    total = torch.stack([c.curvature for c in clients]).sum(0)
    return torch.linalg.solve(total, torch.stack([c.curvature @ c.centre for c in clients]).sum(0))


def frame() -> Frame:
    return Frame("square", {NAME: (SIZE, 1)}, {NAME: ()}, 0, {"m": (SIZE, 1)}, 1.0, 0, products=lambda _: {})


def descend(client: Quadratic, start: torch.Tensor, correction: torch.Tensor, rate: float, steps: int) -> torch.Tensor:
    x = start.double()
    for _ in range(steps):
        x = x - rate * (client.gradient(x) + correction.double())
    return x


def federate(
    clients: list[Quadratic], *, scaffold: bool, rounds: int, steps: int, taking_part: int, rate: float = 0.05
) -> tuple[torch.Tensor, Global, list[State]]:
    """Rounds of `steps` local steps; every client in turn takes part."""
    zero = {NAME: torch.zeros(SIZE, 1)}
    world, own = Global(dict(zero), control=dict(zero), clients=len(clients)), [dict(zero) for _ in clients]
    for round_ in range(rounds):
        mean = Mean(frame())
        mean.begin(world, round_)
        for k in {(round_ * taking_part + i) % len(clients) for i in range(taking_part)}:
            correction = world.control[NAME] - own[k][NAME] if scaffold else zero[NAME]
            end = descend(clients[k], world.state[NAME], correction, rate, steps)
            change: State = {}
            if scaffold:
                rates = {NAME: rate * steps}
                own[k], change = control_change(own[k], world.control, world.state, {NAME: end}, rates)
            delta = {NAME: (end - world.state[NAME].double()).float()}
            mean.add(Contribution(f"c{k}", delta, 1.0, control=change))
        world = mean.finish()
    return world.state[NAME].double(), world, own


@pytest.mark.parametrize(("taking_part", "rounds"), [(6, 120), (2, 360)])
@pytest.mark.parametrize("seed", range(2))
def test_many_local_steps_find_the_optimum_with_scaffold_and_not_without(
    seed: int, taking_part: int, rounds: int
) -> None:
    clients = quadratics(6, seed)
    best = optimum(clients)
    setting = {"rounds": rounds, "steps": 25, "taking_part": taking_part}
    with_variates, world, own = federate(clients, scaffold=True, **setting)
    without, _, _ = federate(clients, scaffold=False, **setting)
    assert (with_variates - best).norm() <= 1e-5 * best.norm()
    assert (without - best).norm() > 1e-2 * best.norm()
    # At the optimum each client's variate is its gradient there, and their mean is zero.
    for client, variate in zip(clients, own, strict=True):
        assert (variate[NAME].double() - client.gradient(best)).norm() <= 1e-4
    assert world.control[NAME].norm() <= 1e-5


@given(st.integers(0, 1000), st.integers(2, 7))
def test_the_coordinators_variate_stays_the_mean_of_all_clients_variates(seed: int, count: int) -> None:
    """Also of those that sat out a round."""
    taking_part = 1 + seed % count
    _, world, own = federate(quadratics(count, seed), scaffold=True, rounds=7, steps=3, taking_part=taking_part)
    mean = torch.stack([variate[NAME].double() for variate in own]).mean(0)
    assert (world.control[NAME].double() - mean).norm() <= 1e-5 * (1 + mean.norm())


def test_the_order_of_the_changes_changes_no_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    changes = [{NAME: torch.randn(SIZE, 1, generator=generator) * 10.0 ** (i - 6)} for i in range(12)]
    start = {NAME: torch.randn(SIZE, 1, generator=generator)}

    def after(order: list[State]) -> torch.Tensor:
        total = ControlSum()
        for change in order:
            total.check(change)
            total.add(change)
        return total.after(start, 40)[NAME]

    assert torch.equal(after(changes), after(changes[::-1]))
    expected = start[NAME].double() + torch.stack([change[NAME].double() for change in changes]).sum(0) / 40
    torch.testing.assert_close(after(changes).double(), expected, atol=1e-6, rtol=1e-6)


def test_there_are_at_least_as_many_clients_as_sent_a_change() -> None:
    """A coordinator that has not counted its clients does not add their changes up."""
    total = ControlSum()
    for value in (1.0, 3.0):
        total.check({NAME: torch.full((SIZE, 1), value)})
        total.add({NAME: torch.full((SIZE, 1), value)})
    assert total.after({NAME: torch.ones(SIZE, 1)}, 1)[NAME].unique().tolist() == [3.0]


def test_a_variate_that_is_not_there_yet_starts_at_zero_and_others_stay() -> None:
    total = ControlSum()
    total.check({NAME: torch.ones(SIZE, 1)})
    total.add({NAME: torch.ones(SIZE, 1)})
    after = total.after({"other": torch.ones(2)}, 4)
    assert after["other"].tolist() == [1.0, 1.0]
    assert after[NAME].unique().tolist() == [0.25]


def test_without_changes_the_variate_is_the_one_that_was_there() -> None:
    control = {NAME: torch.ones(SIZE, 1)}
    total = ControlSum()
    total.add({})
    assert total.after(control, 3) is control


def test_a_change_beyond_the_range_is_refused() -> None:
    with pytest.raises(WeightOutOfRange, match="more than the sum can hold"):
        ControlSum().check({NAME: torch.full((SIZE, 1), 1e10)})
