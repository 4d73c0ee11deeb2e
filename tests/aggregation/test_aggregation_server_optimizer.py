"""Server optimisers against Flower's own strategies, which run the same rounds on the same replies in float64."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.common import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi, Strategy
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from fedtune.aggregation import Aggregator, Contribution, Frame, Global, make_aggregator
from fedtune.aggregation.mean import Mean
from fedtune.aggregation.server_optimizer import SECOND_MOMENTS, ServerOptimised
from fedtune.errors import RunError
from fedtune.recipe import AggregationSection
from fedtune.state import State, digest

SHAPES = {"a.R": (4, 4), "b.R": (3, 3), "head.weight": (2, 5)}
FRAME = Frame("square", SHAPES, {}, 0, {"a": (6, 6), "b": (5, 7)}, 1.0, 0, products=lambda _: {})
ADAPTIVE = sorted(SECOND_MOMENTS)


@pytest.fixture
def _in_a_flower_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's messages carry the numbers of the task that makes them."""
    for number in ("run_id", "task_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{number}", 1)


def section(name: str, **settings: float) -> AggregationSection:
    return AggregationSection.model_validate({"server_optimizer": name, **settings})


def draw(seed: int, size: float = 1.0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * size for name, shape in SHAPES.items()}


def contributions(round_: int, size: float = 0.1) -> list[Contribution]:
    return [Contribution(f"c{k}", draw(100 * round_ + k, size), 10.0 + 7 * k) for k in range(3)]


def run_round(aggregator: Aggregator, world: Global, round_: int, size: float = 0.1) -> Global:
    aggregator.begin(world, round_)
    for contribution in contributions(round_, size):
        aggregator.add(contribution)
    return aggregator.finish()


def run_rounds(options: AggregationSection, count: int, size: float = 0.1) -> list[Global]:
    worlds = [Global(draw(0))]
    for round_ in range(1, count + 1):
        worlds.append(run_round(make_aggregator(options, FRAME), worlds[-1], round_, size))
    return worlds[1:]


def replies_to(arrays: dict[str, np.ndarray], round_: int) -> list[Message]:
    """What Flower's clients would send: their whole arrays and their number of examples."""
    messages = []
    for k, contribution in enumerate(contributions(round_)):
        asked = Message(RecordDict(), dst_node_id=k + 1, message_type="train")
        trained = {n: Array(arrays[n] + contribution.delta[n].double().numpy()) for n in SHAPES}
        content = {
            "arrays": ArrayRecord(trained),
            "metrics": MetricRecord({"num-examples": int(contribution.weight)}),
            "config": ConfigRecord(),
        }
        messages.append(Message(RecordDict(content), reply_to=asked))
    return messages


def run_flower(strategy: Strategy, count: int, prepare: Callable[[int], None]) -> list[dict[str, np.ndarray]]:
    """The same rounds under Flower's strategy, from the same start."""
    arrays = {name: tensor.double().numpy() for name, tensor in draw(0).items()}
    found = []
    for round_ in range(1, count + 1):
        prepare(round_)
        record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        strategy.current_arrays = record if isinstance(strategy, FedAvgM) else arrays
        aggregated, _ = strategy.aggregate_train(round_, replies_to(arrays, round_))
        arrays = {name: aggregated[name].numpy() for name in SHAPES}
        found.append(arrays)
    return found


def assert_same(worlds: list[Global], arrays: list[dict[str, np.ndarray]]) -> None:
    assert len(worlds) == len(arrays)
    for world, expected in zip(worlds, arrays, strict=True):
        for name in SHAPES:
            np.testing.assert_allclose(world.state[name].numpy(), expected[name], rtol=2e-6, atol=2e-6)


@pytest.mark.usefixtures("_in_a_flower_task")
@pytest.mark.parametrize(("rate", "momentum"), [(1.0, 0.9), (0.5, 0.7), (2.0, 0.0)])
def test_avgm_takes_the_steps_of_flowers_fedavgm(rate: float, momentum: float) -> None:
    worlds = run_rounds(section("avgm", server_lr=rate, server_momentum=momentum), 8)
    strategy = FedAvgM(server_learning_rate=rate, server_momentum=momentum)
    assert_same(worlds, run_flower(strategy, 8, lambda _: None))


@pytest.mark.usefixtures("_in_a_flower_task")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_optimisers_take_the_steps_of_flowers_strategies(name: str, momentum: float) -> None:
    """Flower starts the second moment at 0 and corrects FedAdam's rate for that; the paper starts it at τ².

    So Flower is given the paper's start, and a rate that its correction turns into the paper's.
    """
    rate, beta2, tau = 0.03, 0.95, 1e-2
    kind = {"adagrad": FedAdagrad, "adam": FedAdam, "yogi": FedYogi}[name]
    strategy = kind(eta=rate, tau=tau)
    strategy.beta_1, strategy.beta_2 = momentum, beta2
    strategy.v_t = {n: np.full(shape, tau * tau) for n, shape in SHAPES.items()}

    def prepare(round_: int) -> None:
        if name == "adam":
            correction = np.sqrt(1 - beta2 ** (round_ + 1)) / (1 - momentum ** (round_ + 1))
            strategy.eta = rate / correction

    options = section(name, server_lr=rate, server_momentum=momentum, server_beta2=beta2, server_tau=tau)
    worlds = run_rounds(options, 8)
    assert_same(worlds, run_flower(strategy, 8, prepare))
    assert float((worlds[-1].state["head.weight"] - draw(0)["head.weight"]).abs().max()) > rate / 2


def test_the_first_step_is_the_papers_by_hand() -> None:
    """m = (1−β1)·Δ and v from τ² on, in float64 (arXiv 2003.00295, algorithm 2)."""
    beta1, beta2, tau, rate = 0.9, 0.99, 1e-2, 0.1
    mean = Mean(FRAME)
    delta = {n: run_round(mean, Global(draw(0)), 1).state[n].double() - draw(0)[n].double() for n in SHAPES}
    seconds = {
        "adagrad": lambda d: tau**2 + d**2,
        "adam": lambda d: beta2 * tau**2 + (1 - beta2) * d**2,
        "yogi": lambda d: tau**2 - (1 - beta2) * d**2 * torch.sign(tau**2 - d**2),
    }
    for name, second in seconds.items():
        options = section(name, server_lr=rate, server_momentum=beta1, server_beta2=beta2, server_tau=tau)
        (world,) = run_rounds(options, 1)
        for n, d in delta.items():
            expected = draw(0)[n].double() + rate * (1 - beta1) * d / (second(d).sqrt() + tau)
            torch.testing.assert_close(world.state[n].double(), expected, atol=2e-7, rtol=2e-7)
            torch.testing.assert_close(world.memory[f"second/{n}"].double(), second(d), atol=1e-9, rtol=1e-6)
            torch.testing.assert_close(world.memory[f"momentum/{n}"].double(), (1 - beta1) * d, atol=1e-9, rtol=1e-6)


@given(st.integers(0, 1000), st.sampled_from([1e-12, 1e-3, 1.0, 1e6]))
def test_a_rate_of_one_without_momentum_is_the_inner_result_to_the_bit(seed: int, size: float) -> None:
    """Also where the change is so small or large that x + (y − x) is not y."""
    world = replace(Global(draw(seed)), memory={f"momentum/{n}": t for n, t in draw(seed + 1).items()})
    plain = run_round(Mean(FRAME), world, seed, size)
    stepped = run_round(make_aggregator(section("avgm", server_momentum=0.0), FRAME), world, seed, size)
    assert digest(stepped.state) == digest(plain.state)


@pytest.mark.parametrize("name", ["avgm", *ADAPTIVE])
def test_a_resumed_run_takes_the_same_steps_bit_for_bit(name: str) -> None:
    """Everything is in the world: fresh aggregators and copied tensors go on as if nothing had happened."""
    worlds = run_rounds(section(name, server_lr=0.1), 6)
    stopped = worlds[2]
    resumed = Global(
        {n: t.clone() for n, t in stopped.state.items()}, memory={n: t.clone() for n, t in stopped.memory.items()}
    )
    for round_, expected in zip((4, 5, 6), worlds[3:], strict=True):
        resumed = run_round(make_aggregator(section(name, server_lr=0.1), FRAME), resumed, round_)
        assert resumed.digest() == expected.digest()
    forgetful = run_round(make_aggregator(section(name, server_lr=0.1), FRAME), Global(stopped.state), 4)
    assert digest(forgetful.state) != digest(worlds[3].state)


@pytest.mark.parametrize("name", ["avgm", *ADAPTIVE])
def test_the_moments_are_fp32_and_named_after_their_tensors(name: str) -> None:
    (world,) = run_rounds(section(name), 1)
    kinds = ("momentum",) if name == "avgm" else ("momentum", "second")
    assert {n: tuple(t.shape) for n, t in world.memory.items()} == {
        f"{kind}/{n}": shape for kind in kinds for n, shape in SHAPES.items()
    }
    assert {t.dtype for t in (*world.memory.values(), *world.state.values())} == {torch.float32}
    assert not any(bool((t < 0).any()) for n, t in world.memory.items() if n.startswith("second/"))


def test_the_order_of_arrival_changes_no_bit() -> None:
    found = []
    for order in (1, -1):
        aggregator = make_aggregator(section("yogi"), FRAME)
        aggregator.begin(Global(draw(0)), 1)
        for contribution in contributions(1)[::order]:
            aggregator.add(contribution)
        found.append(aggregator.finish().digest())
    assert found[0] == found[1]


def test_the_flags_are_the_inner_ones_but_that_nothing_is_exact() -> None:
    aggregator = make_aggregator(section("adam"), FRAME)
    assert isinstance(aggregator, ServerOptimised)
    assert aggregator.exact_for == frozenset() != Mean.exact_for
    assert aggregator.linear is Mean.linear
    assert aggregator.heterogeneous_for == Mean.heterogeneous_for


def test_what_the_round_started_from_is_not_written_to() -> None:
    world = run_rounds(section("adam"), 1)[0]
    before = world.digest()
    run_round(make_aggregator(section("adam"), FRAME), world, 2)
    assert world.digest() == before


def test_a_round_of_nothing_is_refused() -> None:
    aggregator = make_aggregator(section("adam"), FRAME)
    aggregator.begin(Global(draw(0)), 1)
    with pytest.raises(RunError, match="no mean"):
        aggregator.finish()


def test_control_and_shift_pass_through() -> None:
    world = replace(Global(draw(0)), control=draw(5), clients=9)
    after = run_round(make_aggregator(section("adam"), FRAME), world, 1)
    assert digest(after.control) == digest(world.control)
    assert after.clients == 9
    assert after.shift is world.shift
