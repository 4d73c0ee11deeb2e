"""LoRA-FAIR's correction solves least squares, its cosine steps are those of the dense problem; both stay finite."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fedtune.aggregation.base import Contribution, Global
from fedtune.aggregation.flexlora import SCHEME as FLEXLORA
from fedtune.aggregation.lora_fair import SCHEME, Half, LoraFair, ridge
from fedtune.aggregation.lora_fair_sgd import cosine_steps
from fedtune.aggregation.mean import mean_state
from fedtune.aggregation.scheme import LORA, Layout, Traffic
from tests.aggregation.random_rounds import lora_rounds, same_bits, with_zero_b
from tests.aggregation.worlds_of_factors import (
    lora_frame,
    mean_product,
    product,
    random_contributions,
    random_world,
    run_scheme,
)

SETTINGS = [{"correct": c, "solver": s} for c in ("B", "A", "both") for s in ("closed-form", "cosine-sgd")]
LAMBDAS = st.sampled_from([0.0, 1e-4, 0.01, 1.0, 100.0])


def unscaled(case, after):
    """Per module: the mean product and the new one, without the scale and the shift; and both mean factors."""
    for module in case.frame.modules:
        mean = mean_product(case.frame, Global(case.world.state), case.contributions)[module] / case.frame.scale
        new = product(case.frame, after.state, module) / case.frame.scale
        yield module, mean, new, case.mean_of(f"{module}.lora_A"), case.mean_of(f"{module}.lora_B")


def least_squares(target, fixed, free, regularisation):
    """argmin over F of ‖target − F·fixed‖² + λ‖F − free‖², by one dense least-squares problem per row."""
    penalty = np.sqrt(regularisation) * np.eye(len(fixed))
    wide = np.concatenate([fixed.numpy(), penalty], axis=1)
    gap = np.concatenate([(target - free @ fixed).numpy(), np.zeros((len(free), len(fixed)))], axis=1)
    return free.numpy() + np.linalg.lstsq(wide.T, gap.T, rcond=1e-6)[0].T


def assert_close(found, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=0, atol=2e-6 * np.abs(expected).max() + 1e-30)


def corrected(target, a, b, correct, regularisation):
    """A and B: the free ones solve their problems, B first and then A beside it."""
    if correct != "A":
        b = torch.from_numpy(least_squares(target, a, b, regularisation))
    if correct != "B":
        a = torch.from_numpy(least_squares(target.T, b.T, a.T, regularisation)).T
    return a, b


@given(lora_rounds(), st.sampled_from([1e-2, 1.0, 100.0]), st.sampled_from(["B", "A", "both"]))
def test_the_closed_form_solves_the_regularised_least_squares_problem(case, penalty, correct):
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions, correct=correct, regularisation=penalty)
    for module, target, _, a, b in unscaled(case, after):
        expected_a, expected_b = corrected(target, a, b, correct, penalty)
        assert_close(after.state[f"{module}.lora_A"], expected_a)
        assert_close(after.state[f"{module}.lora_B"], expected_b)


@given(lora_rounds())
def test_without_a_penalty_what_is_left_is_orthogonal_to_the_fixed_factor(case):
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions, regularisation=0.0)
    for module, target, new, a, _ in unscaled(case, after):
        rounding = float(after.state[f"{module}.lora_B"].double().norm() * a.norm() + target.norm()) * float(a.norm())
        assert float(((target - new) @ a.T).norm()) <= 1e-6 * rounding


@given(lora_rounds(), LAMBDAS, st.sampled_from(["B", "A", "both"]))
def test_the_corrected_product_is_never_farther_from_the_target_than_that_of_the_means(case, penalty, correct):
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions, correct=correct, regularisation=penalty)
    for module, target, new, a, b in unscaled(case, after):
        own = [after.state[f"{module}.{side}"].double() for side in ("lora_A", "lora_B")]
        rounding = float(own[0].norm() * own[1].norm() + a.norm() * b.norm())
        assert float((new - target).norm()) <= float((b @ a - target).norm()) + 1e-6 * rounding


@pytest.mark.parametrize("setting", SETTINGS)
@settings(max_examples=15)
@given(case=lora_rounds())
def test_identical_clients_leave_nothing_to_correct(setting, case):
    same = [replace(c, delta=case.contributions[0].delta) for c in case.contributions]
    after = run_scheme(SCHEME, case.frame, case.world, same, solver_steps=20, **setting)
    expected = mean_state(case.world, same, case.frame)
    for name, tensor in after.state.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=2e-6)


@settings(max_examples=40)
@given(lora_rounds())
def test_clients_that_agree_on_a_are_aggregated_exactly(case):
    """The products then add up in B alone, and there is nothing to correct."""
    first = case.contributions[0].delta
    same_a = [
        replace(c, delta={n: first[n] if n.endswith("lora_A") else t for n, t in c.delta.items()})
        for c in case.contributions
    ]
    after = run_scheme(SCHEME, case.frame, case.world, same_a)
    case = replace(case, contributions=same_a)
    for module, target, new, a, b in unscaled(case, after):
        assert float((new - target).norm()) <= 1e-6 * float(a.norm() * b.norm()) + 1e-30
        assert_close(after.state[f"{module}.lora_B"], b)


@pytest.mark.parametrize("setting", SETTINGS)
@settings(max_examples=15)
@given(case=lora_rounds())
def test_an_endless_penalty_leaves_the_mean(setting, case):
    steps = {"solver_steps": 20, "regularisation": 1e15}
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions, **setting, **steps)
    for name, tensor in after.state.items():
        assert_close(tensor, case.mean_of(name))


@pytest.mark.parametrize("drift", [(0.3, 0.0101, 0.0099), (1.0, 0.1021, 0.0998), (3.0, 0.5110, 0.4990)])
def test_under_random_drift_no_correction_of_rank_r_gains_much(drift):
    """m = n = 768, r = 16, six clients; A drifts by its own size times `scale`, B by 0.3 of that.

    The plain mean is off by about 0.0101, 0.1021 and 0.5110 of the target; the closed form and the best factors of
    that rank stay within 3 % of it, in this order.
    """
    scale, plain, best = drift
    frame = lora_frame(16, modules={"m": (768, 768)}, scale=1.0)
    world = random_world(frame, 1, shifted=False)
    sizes = {"m.lora_A": scale, "m.lora_B": 0.3 * scale}
    clients = [
        replace(c, delta={n: t * sizes.get(n, 1.0) for n, t in c.delta.items()})
        for c in random_contributions(frame, [1.0] * 6, 2)
    ]
    target = mean_product(frame, world, clients)["m"]

    def error(state):
        return float((product(frame, state, "m") - target).norm() / target.norm())

    mean = error(mean_state(world, clients, frame))
    closed = error(run_scheme(SCHEME, frame, world, clients).state)
    optimum = error(run_scheme(FLEXLORA, frame, world, clients).state)
    assert mean == pytest.approx(plain, rel=0.03)
    assert optimum == pytest.approx(best, rel=0.03)
    assert optimum < closed < mean < 1.04 * optimum


@settings(max_examples=50)
@given(lora_rounds(), st.sampled_from([0.0, 0.01, 1.0]), st.sampled_from([1e-3, 1e-2]))
def test_the_cosine_steps_are_those_of_the_dense_problem(case, penalty, lr):
    """Autograd on the whole (out, in) matrices takes the same fifteen steps; they count where they end better."""
    options = {"solver": "cosine-sgd", "regularisation": penalty, "solver_lr": lr, "solver_steps": 15}
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions, **options)
    for module, target, _, a, b in unscaled(case, after):
        delta = dense_steps(target, a, b, penalty, lr, 15)
        gain = cosine(target, (b + delta) @ a) - penalty * float(delta.square().sum()) - cosine(target, b @ a)
        event("better" if gain > 1e-9 else "worse" if gain < -1e-9 else "even")
        if abs(gain) > 1e-9:
            assert_close(after.state[f"{module}.lora_B"], b + delta if gain > 0 else b)


def cosine(left, right):
    norms = float(left.norm() * right.norm())
    return float((left * right).sum()) / norms if norms else 0.0


def dense_steps(target, a, b, regularisation, lr, steps):
    delta = torch.zeros_like(b, requires_grad=True)
    for _ in range(steps):
        new = (b + delta) @ a
        loss = 1 - (target * new).sum() / (target.norm() * new.norm())
        (slope,) = torch.autograd.grad(loss, delta)
        delta = ((delta - lr * slope) / (1 + 2 * lr * regularisation)).detach().requires_grad_(True)
    return delta.detach()


def test_enough_cosine_steps_reach_the_direction_of_the_projection():
    """Without a penalty every maximiser of the cosine is a multiple of ΔW·Āᵀ·(Ā·Āᵀ)⁻¹."""
    frame = lora_frame(3, modules={"m": (8, 11)}, scale=1.0)
    world = random_world(frame, 5, shifted=False)
    clients = random_contributions(frame, [1.0, 2.0, 3.0], 6)
    after = run_scheme(SCHEME, frame, world, clients, solver="cosine-sgd", regularisation=0.0, solver_lr=2.0)
    target, a = mean_product(frame, world, clients)["m"], after.state["m.lora_A"].double()
    best = target @ a.T @ torch.linalg.inv(a @ a.T)
    assert cosine(best @ a, product(frame, after.state, "m")) == pytest.approx(1.0, abs=1e-6)
    assert cosine(target, product(frame, after.state, "m")) > cosine(
        target, product(frame, mean_state(world, clients, frame), "m")
    )


def test_steps_that_end_worse_are_taken_back():
    """A step of a hundred million times the factor's size turns it about as often as not: it stays what it was."""
    free = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64) * 1e-9
    gap = torch.tensor([[0.0, 1e-9], [1e-9, 0.0]], dtype=torch.float64)
    gram = torch.eye(2, dtype=torch.float64)
    correction = cosine_steps(free, gap, gram, 2e-9, regularisation=1.0, steps=3, lr=1.0)
    assert torch.equal(correction, torch.zeros_like(free))


@pytest.mark.parametrize("setting", SETTINGS)
@settings(max_examples=10)
@given(case=lora_rounds(), tiny=st.sampled_from([0.0, 1e-30, 1e-12, 1.0]), penalty=st.sampled_from([0.0, 0.01]))
def test_zero_and_tiny_factors_give_finite_corrections(setting, case, tiny, penalty):
    """The first round starts from B = 0; clients may train nothing, and A may be next to nothing."""
    world = with_zero_b(case.world)
    world = replace(world, state={n: t * (tiny if n.endswith("lora_A") else 1.0) for n, t in world.state.items()})
    small = [replace(c, delta={n: t * tiny for n, t in c.delta.items()}) for c in case.contributions]
    for clients in (small, [replace(c, delta={n: t * 0 for n, t in c.delta.items()}) for c in small]):
        after = run_scheme(SCHEME, case.frame, world, clients, solver_steps=20, regularisation=penalty, **setting)
        assert all(bool(t.isfinite().all()) for t in after.state.values())


def test_directions_that_the_fixed_factor_hardly_has_are_left_alone():
    """A singular value of a part in ten million is rounding; dividing by its square would blow it up."""
    gram = torch.diag(torch.tensor([1.0, 1e-14], dtype=torch.float64))
    half = Half(torch.zeros(3, 2).double(), torch.ones(3, 2).double(), gram, 1.0)
    assert ridge(half, 0.0).tolist() == [[1.0, 0.0]] * 3


@pytest.mark.parametrize("setting", SETTINGS)
@settings(max_examples=10)
@given(case=lora_rounds(), random=st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(setting, case, random):
    before = run_scheme(SCHEME, case.frame, case.world, case.contributions, solver_steps=10, **setting)
    shuffled = random.sample(case.contributions, len(case.contributions))
    after = run_scheme(SCHEME, case.frame, case.world, shuffled, solver_steps=10, **setting)
    assert same_bits(before.state, after.state)


@given(lora_rounds())
def test_the_head_is_averaged_by_weight_and_the_shift_stays(case):
    after = run_scheme(SCHEME, case.frame, case.world, case.contributions)
    expected = mean_state(case.world, case.contributions, case.frame)
    assert all(torch.equal(after.state[name], expected[name]) for name in ("head.weight", "head.bias"))
    assert after.shift is case.world.shift


def test_what_the_scheme_says_of_itself():
    assert SCHEME.forms == LORA
    assert SCHEME.aggregator is LoraFair
    assert (LoraFair.exact_for, LoraFair.heterogeneous_for, LoraFair.linear) == (frozenset(), frozenset(), False)
    layout = Layout("lora", [(10, 6), (4, 4)], rank=2, own_rank=2, ranks=[2, 2], head=7)
    assert SCHEME.traffic(layout) == Traffic(up=2 * 16 + 2 * 8 + 7, down=2 * 16 + 2 * 8 + 7)


def test_the_scale_of_lora_does_not_matter():
    """λ counts against the plain factors, so a recipe's α changes nothing."""
    world = random_world(lora_frame(3), 1, shifted=False)
    clients: list[Contribution] = random_contributions(lora_frame(3), [1.0, 2.0], 2)
    states = [run_scheme(SCHEME, lora_frame(3, scale=s), world, clients).state for s in (1.0, 8.0)]
    assert same_bits(*states)
