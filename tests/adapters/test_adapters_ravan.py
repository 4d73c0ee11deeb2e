"""RAVAN (arXiv 2506.05568): orthonormal heads, the chain rule, an exact mean, and scales that do not travel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedtune.adapters.factors import random_factors
from fedtune.adapters.layers import weight_of
from fedtune.adapters.ravan_layer import RavanLayer
from fedtune.adapters.slots import narrow, widen
from fedtune.errors import AdapterError
from fedtune.recipe import AdapterSection
from fedtune.state import digest
from fedtune.training.base import Assignment
from fedtune.training.loop import train_client
from tests.adapters.adapter_models import KINDS, attached_to, logits, shake
from tests.training.parts import adapted_resident, random_state, text_rows

RAVAN = KINDS["ravan"]


def matrix(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scale_randomly(attached, seed=4):
    """As after local steps: scales other than one."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in attached.parameters().items():
            if name.endswith(".s"):
                parameter.add_(torch.randn(parameter.shape, generator=draw))


@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 4), st.integers(0, 50), st.data())
@settings(deadline=None)
def test_heads_are_orthonormal_and_so_are_all_together_where_there_is_room(rows, columns, heads, seed, data):
    rank = data.draw(st.integers(1, min(rows, columns)))
    found = random_factors((rows, columns), rank, seed=seed, name="m", heads=heads)
    for side in (found.b.double(), found.a.double().T):
        gram = side.T @ side
        assert gram.shape == (heads * rank, heads * rank)
        if heads * rank > len(side):
            own = torch.block_diag(*[torch.ones(rank, rank)] * heads)
            gram = gram * own
        torch.testing.assert_close(gram, torch.eye(heads * rank).double(), rtol=0, atol=1e-6)
    again = random_factors((rows, columns), rank, seed=seed, name="m", heads=heads)
    assert torch.equal(again.b, found.b)
    assert torch.equal(again.a, found.a)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 3), st.integers(0, 50), st.data())
@settings(deadline=None)
def test_gradients_are_the_chain_rule_of_the_folded_weight(rows, columns, heads, seed, data):
    """∂L/∂Hᵢ = sᵢ·Bᵢᵀ·G·Aᵢᵀ and ∂L/∂sᵢ = ⟨Hᵢ, Bᵢᵀ·G·Aᵢᵀ⟩ for G = ∂L/∂W, for Linear and Conv1D, in float64."""
    rank = data.draw(st.integers(1, min(rows, columns)))
    base = Conv1D(rows, columns) if data.draw(st.booleans()) else nn.Linear(columns, rows)
    layer = RavanLayer(base.requires_grad_(True), rank, heads).double()
    layer.set_factors(random_factors((rows, columns), rank, seed=seed, name="m", heads=heads))
    h, s = matrix(heads, rank, rank, seed=seed), matrix(heads, seed=seed + 1)
    layer.H.data, layer.s.data = h.clone(), s.clone()
    x = matrix(2, 3, columns, seed=seed + 2)
    y = layer(x)
    y.pow(3).sum().backward()
    parts = [(layer.B[:, i * rank : (i + 1) * rank], layer.A[i * rank : (i + 1) * rank]) for i in range(heads)]
    change = sum(s[i] * b @ h[i] @ a for i, (b, a) in enumerate(parts))
    torch.testing.assert_close(y, x @ (weight_of(base) + change).T + base.bias, rtol=1e-9, atol=1e-9)
    g = base.weight.grad.T if isinstance(base, Conv1D) else base.weight.grad
    for i, (b, a) in enumerate(parts):
        projected = b.T @ g @ a.T
        torch.testing.assert_close(layer.H.grad[i], s[i] * projected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(layer.s.grad[i], (h[i] * projected).sum(), rtol=1e-8, atol=1e-8)


def test_the_scales_are_trained_and_travel_inside_the_squares(tiny_bert_folder):
    _, attached = attached_to(tiny_bert_folder, "bert", **RAVAN)
    shake(attached)
    assert {n.rpartition(".")[2] for n in attached.parameters() if not n.startswith("head.")} == {"H", "s"}
    assert {n.rpartition(".")[2] for n in attached.read() if not n.startswith("head.")} == {"H"}
    assert attached.shapes() == {name: tuple(tensor.shape) for name, tensor in attached.read().items()}
    raw = {name: p.detach().clone() for name, p in attached.parameters().items()}
    scale_randomly(attached)
    before, state = logits(attached.model, "bert"), attached.read()
    for name in attached.targets():
        scales = attached.parameters()[f"{name}.s"].detach()
        torch.testing.assert_close(state[f"{name}.H"], scales[:, None, None] * raw[f"{name}.H"])
    attached.load(state)
    assert all(bool((p == 1).all()) for name, p in attached.parameters().items() if name.endswith(".s"))
    assert torch.equal(logits(attached.model, "bert"), before)
    assert digest(attached.read()) == digest(state)


def test_the_mean_of_the_states_is_the_mean_of_the_products(tiny_bert_folder):
    """Which the means of H and of s, each by itself, would miss."""
    _, attached = attached_to(tiny_bert_folder, "bert", targets="attention", **RAVAN)
    states, squares, scales = [], [], []
    for client in range(3):
        shake(attached)
        scale_randomly(attached, seed=client)
        states.append(attached.read())
        parameters = {name: p.detach().double().clone() for name, p in attached.parameters().items()}
        squares.append({n: p for n, p in parameters.items() if n.endswith(".H")})
        scales.append({n: p for n, p in parameters.items() if n.endswith(".s")})
    products = [{name: b @ a for name, (a, b) in attached.products(state).items()} for state in states]
    mean = {name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]}
    found = attached.products(mean)
    for name in attached.targets():
        expected = torch.stack([product[name] for product in products]).mean(0)
        torch.testing.assert_close(found[name][1] @ found[name][0], expected, rtol=1e-9, atol=1e-9)
        apart = torch.stack([x[f"{name}.H"] for x in squares]).mean(0)
        apart = apart * torch.stack([x[f"{name}.s"] for x in scales]).mean(0)[:, None, None]
        assert (apart - mean[f"{name}.H"]).norm() > 0.05 * mean[f"{name}.H"].norm()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_client_of_some_heads_trains_those_and_their_scales(tiny_bert_folder, optimizer):
    home = adapted_resident(
        tiny_bert_folder,
        AdapterSection(rank=4, **RAVAN),
        lr=0.1,
        steps=4,
        batch_size=4,
        optimizer=optimizer,
        weight_decay=0.1,
    )
    stepped: list[bool] = []

    def watch(*_: object) -> None:
        stepped.extend(bool((p != 1).any()) for n, p in home.attached.parameters().items() if n.endswith(".s"))

    home.attached.model.register_forward_pre_hook(watch)
    start = narrow(random_state(home), home.attached.axes(), (0, 2))
    start = widen(start, home.shapes(), home.attached.axes(), (0, 2))
    share = Assignment("a", 1, start, text_rows(8), seed=3, slots=(0, 2))
    found = train_client(home, share).state
    assert any(stepped)
    for name, tensor in found.items():
        if name.endswith(".H"):
            assert not tensor[1].any()
            assert not any(torch.equal(tensor[head], start[name][head]) for head in (0, 2))
    assert digest(train_client(home, share).state) == digest(found)


def test_it_exports_at_the_rank_of_all_heads_or_the_full_one(tiny_llama_folder):
    """The key projection is 16 wide: five heads of four have no room there, and are exported as one whole matrix."""
    _, attached = attached_to(tiny_llama_folder, "llama", kind="ravan", init="random", heads=5)
    ranks = attached.saved("x").ranks()
    assert ranks["model.layers.0.self_attn.k_proj"] == 16
    assert ranks["model.layers.0.self_attn.q_proj"] == 20


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"init": "weights"}, 'cannot start from adapter.init = "weights": use "random"'),
        ({"alpha": 2.0}, "leave them out of a ravan adapter"),
        ({"dropout": 0.1}, "leave them out of a ravan adapter"),
        ({"rank": 40}, r"adapter\.rank = 40 is more than the shorter side"),
    ],
)
def test_a_section_that_does_not_fit_is_refused(tiny_bert_folder, wrong, sentence):
    with pytest.raises(AdapterError, match=sentence):
        attached_to(tiny_bert_folder, "bert", **{**RAVAN, **wrong})


def test_it_reads_no_gradients(tiny_bert_folder):
    _, attached = attached_to(tiny_bert_folder, "bert", **RAVAN)
    with pytest.raises(AdapterError, match="reads no gradients"):
        attached.initialise({})
