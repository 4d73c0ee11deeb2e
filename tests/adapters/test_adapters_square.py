"""The oracles of LoRA-SB and Fed-SB: orthonormal factors, the chain rule, the best approximation, r² numbers."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedtune.adapters import factors
from fedtune.adapters.factors import leading_factors, random_factors
from fedtune.adapters.layers import dimensions, weight_of
from fedtune.adapters.square import FIRST_STEP
from fedtune.adapters.square_layer import SquareLayer
from fedtune.errors import AdapterError
from tests.adapters.adapter_models import attached_to, product, shake

sizes = st.integers(1, 24)


def matrix(rows, columns, seed):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def gap_to_identity(product):
    return (product - torch.eye(len(product))).abs().max().item()


@given(sizes, sizes, st.integers(0, 50), st.data())
def test_svd_factors_are_orthonormal_and_the_best_approximation(rows, columns, seed, data):
    rank = data.draw(st.integers(1, min(rows, columns)))
    w = matrix(rows, columns, seed)
    factors = leading_factors(w, rank, name="m")
    b, s, a = factors.b, factors.s, factors.a
    assert gap_to_identity(b.T @ b) <= 1e-5
    assert gap_to_identity(a @ a.T) <= 1e-5
    u, exact, vh = torch.linalg.svd(w.double(), full_matrices=False)
    best = (u[:, :rank] * exact[:rank]) @ vh[:rank]
    assert (w.double() - (b * s) @ a).norm() <= (w.double() - best).norm() * (1 + 1e-6) + 1e-5


@pytest.mark.parametrize(("decay", "share"), [("power", 0.9999), ("slow", 0.95), ("flat", 0.92)])
def test_the_randomised_decomposition_of_a_large_weight_captures_nearly_what_the_exact_one_does(decay, share):
    ranks = torch.arange(1, 601, dtype=torch.float64)
    spectrum = {"power": 1 / ranks, "slow": (1 - ranks / 601) ** 2, "flat": None}[decay]
    w = matrix(600, 700, 1).double()
    if spectrum is not None:
        w = torch.linalg.qr(w[:, :600]).Q * spectrum @ torch.linalg.qr(matrix(700, 600, 2).double()).Q.T
    found = leading_factors(w, 16, name="m")
    best = torch.linalg.svdvals(w)[:16].square().sum()
    captured = (found.b.double().T @ w @ found.a.double().T).square().sum()
    assert share <= captured / best <= 1 + 1e-9
    assert gap_to_identity(found.b.T @ found.b) <= 1e-5
    assert gap_to_identity(found.a @ found.a.T) <= 1e-5


@given(sizes, sizes, st.integers(0, 50), st.data())
def test_random_factors_are_orthonormal_repeatable_and_differ_by_module(rows, columns, seed, data):
    rank = data.draw(st.integers(1, min(rows, columns)))
    first = random_factors((rows, columns), rank, seed=seed, name="m")
    b, a = first.b, first.a
    assert gap_to_identity(b.T @ b) <= 1e-5
    assert gap_to_identity(a @ a.T) <= 1e-5
    again = random_factors((rows, columns), rank, seed=seed, name="m")
    assert torch.equal(b, again.b)
    assert torch.equal(a, again.a)
    other = random_factors((rows, columns), rank, seed=seed, name="n")
    assert (rows, columns) == (1, 1) or not (torch.equal(b, other.b) and torch.equal(a, other.a))


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 50), st.data())
@settings(deadline=None)
def test_the_gradient_of_r_is_the_chain_rule(rows, columns, seed, data):
    """∂L/∂R = Bᵀ·G·Aᵀ for G = ∂L/∂W (arXiv 2411.19557, lemma 1), for Linear and Conv1D, in float64."""
    rank = data.draw(st.integers(1, min(rows, columns)))
    base = Conv1D(rows, columns) if data.draw(st.booleans()) else nn.Linear(columns, rows)
    layer = SquareLayer(base.requires_grad_(True), rank).double()
    layer.set_factors(leading_factors(weight_of(base), rank, name="m"))
    x = matrix(5, columns, seed).double()
    layer(x).pow(3).sum().backward()
    weight = base.weight.grad
    g = weight.T if isinstance(base, Conv1D) else weight
    torch.testing.assert_close(layer.R.grad, layer.B.T @ g @ layer.A.T, rtol=1e-9, atol=1e-9)


@given(sizes, sizes, st.integers(0, 50), st.data())
@settings(deadline=None)
def test_the_layer_computes_the_folded_weight(rows, columns, seed, data):
    rank = data.draw(st.integers(1, min(rows, columns)))
    base = Conv1D(rows, columns) if data.draw(st.booleans()) else nn.Linear(columns, rows)
    layer = SquareLayer(base, rank).double()
    layer.set_factors(random_factors((rows, columns), rank, seed=seed, name="m"))
    layer.R.data = matrix(rank, rank, seed).double()
    x = matrix(3, columns, seed + 1).double()
    expected = x @ (weight_of(base).double() + product(layer)).T + base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    # Orthonormal factors keep norms: noise on R is not amplified in the weight.
    torch.testing.assert_close(product(layer).norm(), layer.R.detach().double().norm(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("head", [True, False])
def test_r_squared_numbers_a_module_and_the_head_are_trained(tiny_bert_folder, head):
    loaded, attached = attached_to(tiny_bert_folder, "bert", rank=5, head=head)
    trained = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    classifier = sum(p.numel() for p in loaded.model.classifier.parameters())
    assert trained == 25 * len(attached.targets()) + (classifier if head else 0)


def test_gradients_give_the_best_approximation_of_a_sign_step(tiny_bert_folder):
    _, attached = attached_to(tiny_bert_folder, "bert", init="public-gradient", targets="attention")
    gradients = {n: matrix(*shape, i) for i, (n, shape) in enumerate(attached.target_shapes().items())}
    attached.initialise(gradients)
    for name, gradient in gradients.items():
        layer = attached.model.get_submodule(name)
        u, s, vh = torch.linalg.svd(-FIRST_STEP * gradient.double().sign(), full_matrices=False)
        best = (u[:, :4] * s[:4]) @ vh[:4]
        torch.testing.assert_close(product(layer).double(), best, rtol=1e-3, atol=1e-10)
        assert bool((layer.R.diagonal() > 0).all())
        assert (gradient * product(layer)).sum() < 0  # a descent step


def test_broadcast_factors_make_another_machines_adapter_the_same(tiny_bert_folder):
    _, one = attached_to(tiny_bert_folder, "bert", init="public-gradient")
    _, two = attached_to(tiny_bert_folder, "bert", init="public-gradient")
    one.initialise({n: matrix(*shape, 7) for n, shape in one.target_shapes().items()})
    assert one.shared_origin == "broadcast"
    two.load_shared(one.shared())
    assert two.sketch() == one.sketch()
    with pytest.raises(AdapterError, match="lacks"):
        two.load_shared({})


def test_an_adapter_that_recomputes_its_factors_refuses_gradients(tiny_bert_folder):
    _, attached = attached_to(tiny_bert_folder, "bert", init="random")
    with pytest.raises(AdapterError, match="reads no gradients"):
        attached.initialise({})


def test_the_sketch_shows_other_factors_and_not_the_last_digits(tiny_bert_folder):
    _, attached = attached_to(tiny_bert_folder, "bert", targets="attention")
    name = attached.targets()[0]
    original, sketch = attached.shared(), attached.sketch()

    def changed(part, change):
        factors = copy.deepcopy(original)
        factors[f"{name}.{part}"] = change(factors[f"{name}.{part}"])
        attached.load_shared(factors)
        return max(abs(value - sketch[key]) for key, value in attached.sketch().items())

    def flip(factor):
        factor[:, 1] *= -1
        return factor

    assert changed("B", lambda f: f + 1e-6 * matrix(*f.shape, 1)) < 1e-4
    assert changed("B", flip) > 1e-2
    assert changed("B", lambda f: f[:, [1, 0, 2, 3]]) > 1e-2
    assert changed("A", lambda f: f.flip(0)) > 1e-2
    assert changed("A", lambda f: torch.linalg.qr(matrix(*f.shape, 3).T).Q.T) > 1e-2


def test_the_same_base_gives_the_same_factors_and_another_does_not(tiny_bert_folder, tiny_llama_folder):
    sketches = [attached_to(tiny_bert_folder, "bert")[1].sketch() for _ in range(2)]
    assert sketches[0] == sketches[1]
    loaded, attached = attached_to(tiny_llama_folder, "llama")
    shake(attached)
    assert (
        dimensions(loaded.model.get_submodule(attached.targets()[0])) == attached.target_shapes()[attached.targets()[0]]
    )


@given(st.integers(2, 16), st.integers(2, 16), st.integers(1, 6), st.integers(0, 50), st.data())
@settings(deadline=None)
def test_the_mean_of_r_is_the_mean_of_the_products(rows, columns, clients, seed, data):
    """Fed-SB's exactness (arXiv 2502.15436), which no product of two trained factors has; compared in float64."""
    rank = data.draw(st.integers(1, min(rows, columns)))
    layer = SquareLayer(nn.Linear(columns, rows), rank)
    layer.set_factors(random_factors((rows, columns), rank, seed=seed, name="m"))
    trained = [matrix(rank, rank, seed + client) for client in range(clients)]

    def product_of(r):
        layer.R.data = r
        return product(layer)

    mean_of_products = torch.stack([product_of(r) for r in trained]).mean(0)
    torch.testing.assert_close(product_of(torch.stack(trained).mean(0)), mean_of_products, rtol=1e-5, atol=1e-6)


def test_the_step_on_r_is_the_best_that_its_subspace_allows():
    """Among all r × r matrices S, the gradient of R makes B·S·A closest to the weight's gradient (arXiv 2411.19557)."""
    base = nn.Linear(9, 7).requires_grad_(True)
    layer = SquareLayer(base, 3)
    layer.set_factors(random_factors((7, 9), 3, seed=1, name="m"))
    layer(matrix(5, 9, 2)).square().sum().backward()
    g, b, a = (t.double() for t in (base.weight.grad, layer.B, layer.A))
    kronecker = torch.einsum("mr,sn->mnrs", b, a).reshape(63, 9)
    best = torch.linalg.lstsq(kronecker, g.reshape(63, 1)).solution.reshape(3, 3)
    torch.testing.assert_close(layer.R.grad.double(), best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["public-gradient", "private-gradient"])
def test_gradients_are_all_or_nothing(tiny_bert_folder, init):
    _, attached = attached_to(tiny_bert_folder, "bert", init=init, targets="attention")
    assert not any(factor.any() for factor in attached.shared().values())
    good = {n: matrix(*shape, 1) for n, shape in attached.target_shapes().items()}
    last = attached.targets()[-1]
    for bad in (float("nan"), float("inf")):
        with pytest.raises(AdapterError, match="holds NaN or infinity"):
            attached.initialise({**good, last: torch.full_like(good[last], bad)})
    with pytest.raises(AdapterError, match="lacks"):
        attached.initialise({n: t for n, t in good.items() if n != last})
    with pytest.raises(AdapterError, match="shape"):
        attached.initialise({**good, last: good[last][:3]})
    assert not any(factor.any() for factor in attached.shared().values())


def test_broadcast_factors_with_nan_are_refused(tiny_bert_folder):
    _, attached = attached_to(tiny_bert_folder, "bert", init="public-gradient", targets="attention")
    factors = attached.shared()
    next(iter(factors.values()))[0, 0] = float("nan")
    with pytest.raises(AdapterError, match="holds NaN or infinity"):
        attached.load_shared(factors)


@pytest.mark.parametrize("weight", ["zero", "identity", "one column", "symmetric signs"])
def test_a_degenerate_weight_still_has_orthonormal_factors(weight):
    w = {
        "zero": torch.zeros(12, 10),
        "identity": torch.eye(12, 10),
        "one column": torch.ones(12, 1) @ torch.eye(1, 10),
        "symmetric signs": torch.tensor([1.0, -1.0]).repeat(6)[:, None] * torch.eye(12, 10),
    }[weight]
    found = leading_factors(w, 4, name="m")
    assert gap_to_identity(found.b.T @ found.b) <= 1e-5
    assert gap_to_identity(found.a @ found.a.T) <= 1e-5


def test_a_pair_of_singular_vectors_has_one_sign_and_noise_does_not_turn_it():
    w = matrix(30, 20, 4).double()
    found = leading_factors(w, 5, name="m")
    # u·W·v > 0 for each pair: the two were turned together or not at all.
    assert bool(((found.b.double().T @ w @ found.a.double().T).diagonal() > 0).all())
    noisy = leading_factors(w + 1e-9 * matrix(30, 20, 5), 5, name="m")
    torch.testing.assert_close(noisy.b, found.b, rtol=0, atol=1e-6)
    torch.testing.assert_close(noisy.a, found.a, rtol=0, atol=1e-6)
    # Another routine finds the same vectors with signs of its own, until they are fixed.
    u = torch.linalg.eigh(w @ w.T).eigenvectors.flip(1)[:, :5]
    assert not torch.allclose(u.float(), found.b, atol=1e-5)
    torch.testing.assert_close((u * factors._signs(u)).float(), found.b, rtol=0, atol=1e-5)
