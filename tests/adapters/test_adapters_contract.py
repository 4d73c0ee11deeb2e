"""What aggregation is told of an adapter: slots, axes, and the product of any state, in double precision."""

import subprocess
import sys

import pytest
import torch

from fedtune.adapters.layers import base_of, weight_of
from fedtune.adapters.slots import narrow, widen
from fedtune.aggregation.frame import frame_of
from fedtune.errors import AdapterError
from fedtune.recipe import AdapterSection
from fedtune.state import State, digest
from tests.adapters.adapter_models import FAMILIES, KINDS, attached_to, logits, shake

every = pytest.mark.parametrize(("family", "kind"), [(f, k) for f in FAMILIES for k in KINDS])


@pytest.fixture
def folder(request, family):
    return request.getfixturevalue(f"tiny_{family}_folder")


def by_hand(kind: str, state: State, shared: State, name: str) -> torch.Tensor:
    """ΔW of one module from the papers' formulas, one outer product at a time."""
    part = {k.rpartition(".")[2]: t.double() for k, t in {**state, **shared}.items() if k.startswith(f"{name}.")}
    if kind in ("lora", "ffa"):
        return 6.0 / 4 * sum(torch.outer(part["lora_B"][:, i], part["lora_A"][i]) for i in range(4))
    if kind == "square":
        return sum(part["R"][i, j] * torch.outer(part["B"][:, i], part["A"][j]) for i in range(4) for j in range(4))
    heads = [slice(4 * i, 4 * i + 4) for i in range(3)]
    return sum(part["B"][:, own] @ part["H"][i] @ part["A"][own] for i, own in enumerate(heads))


@every
def test_the_layer_computes_the_dense_weight_of_its_product(folder, family, kind):
    """y = (W + ΔW)·x in float64, for Linear and Conv1D, with ΔW by hand from state and shared factors."""
    _, attached = attached_to(folder, family, **KINDS[kind])
    shake(attached)
    state, shared = attached.read(), attached.shared()
    attached.model.double()
    products = attached.products(state)
    assert tuple(products) == attached.targets()
    for i, name in enumerate(attached.targets()):
        a, b = products[name]
        expected = by_hand(kind, state, shared, name)
        assert a.dtype == b.dtype == torch.float64
        torch.testing.assert_close(b @ a, expected, rtol=1e-12, atol=1e-12)
        layer = attached.model.get_submodule(name)
        base = base_of(layer)
        x = torch.randn(2, 3, a.shape[1], generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        dense = x @ (weight_of(base) + expected).T + (0 if base.bias is None else base.bias)
        torch.testing.assert_close(layer(x), dense, rtol=1e-9, atol=1e-9)


@every
def test_the_product_is_of_the_given_state_and_not_of_the_loaded_one(folder, family, kind):
    _, attached = attached_to(folder, family, **KINDS[kind])
    start = attached.read()
    shake(attached)
    trained = attached.read()
    assert all(not (b @ a).any() for a, b in attached.products(start).values())
    assert all((b @ a).any() for a, b in attached.products(trained).values())
    assert all(not (b @ a).any() for a, b in attached.products(start).values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_foreign_state_has_no_product_and_the_head_is_no_part_of_it(tiny_bert_folder, kind):
    _, attached = attached_to(tiny_bert_folder, "bert", **KINDS[kind])
    state = attached.read()
    adapter = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    assert attached.products(adapter).keys() == attached.products(state).keys()
    first = min(adapter)
    with pytest.raises(AdapterError, match="lacks"):
        attached.products({name: tensor for name, tensor in adapter.items() if name != first})
    with pytest.raises(AdapterError, match="shape"):
        attached.products({**adapter, first: torch.zeros(2, 2)})


AXES = {
    "lora": {"lora_A": (0,), "lora_B": (1,)},
    "ffa": {"lora_B": (1,)},
    "square": {"R": (0, 1)},
    "ravan": {"H": (0,)},
}
SLOTS = {"lora": 4, "ffa": 4, "square": 4, "ravan": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_axes_and_slots_are_those_of_the_kind(tiny_bert_folder, kind):
    _, attached = attached_to(tiny_bert_folder, "bert", **KINDS[kind])
    axes, shapes = attached.axes(), attached.shapes()
    assert axes.keys() == shapes.keys() == attached.read().keys()
    assert attached.slots == SLOTS[kind]
    assert attached.scale == (1.5 if kind in ("lora", "ffa") else 1.0)
    found = {name.rpartition(".")[2]: axis for name, axis in axes.items() if not name.startswith("head.")}
    assert found == AXES[kind]
    assert all(axes[name] == () for name in axes if name.startswith("head."))
    assert any(name.startswith("head.") for name in axes)
    assert all(shapes[name][axis] == attached.slots for name, own in axes.items() for axis in own)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [(0,), (0, 1), (1, 2)])
def test_slots_are_a_part_of_the_sum(tiny_bert_folder, kind, slots):
    """ΔW of a state is the sum over its slots, for all kinds but square, whose R couples them."""
    _, attached = attached_to(tiny_bert_folder, "bert", targets="attention", **KINDS[kind])
    shake(attached)
    state, axes, shapes = attached.read(), attached.axes(), attached.shapes()
    own = widen(narrow(state, axes, slots), shapes, axes, slots)
    rest = tuple(sorted(set(range(attached.slots)) - set(slots)))
    others = widen(narrow(state, axes, rest), shapes, axes, rest)
    whole, part, other = (attached.products(s) for s in (state, own, others))
    for name in attached.targets():
        total, one, two = (b @ a for a, b in (whole[name], part[name], other[name]))
        assert one.any()
        if kind != "square":
            torch.testing.assert_close(one + two, total, rtol=1e-12, atol=1e-12)
        else:
            assert torch.linalg.matrix_rank(one) == len(slots)


def test_a_frame_says_what_the_adapter_says(tiny_gpt2_folder):
    section = AdapterSection(rank=4, **KINDS["ffa"])
    _, attached = attached_to(tiny_gpt2_folder, "gpt2", **KINDS["ffa"])
    frame = frame_of(attached, section)
    assert frame.form == "ffa"
    assert frame.modules["transformer.h.0.attn.c_attn"] == (96, 32)
    assert frame.products(attached.read()).keys() == frame.modules.keys()


@pytest.mark.parametrize("kind", ["ffa", "ravan"])
def test_frozen_factors_are_shared_and_not_trained(tiny_bert_folder, kind):
    _, attached = attached_to(tiny_bert_folder, "bert", **KINDS[kind])
    _, other = attached_to(tiny_bert_folder, "bert", seed=9, **KINDS[kind])
    assert attached.shared_origin == "recomputed"
    assert not set(attached.shared()) & (set(attached.read()) | set(attached.parameters()))
    assert len(attached.shared()) == len(attached.targets()) * (1 if kind == "ffa" else 2)
    assert max(abs(other.sketch()[name] - value) for name, value in attached.sketch().items()) > 1e-2
    shake(attached)
    before = logits(attached.model, "bert")
    factors = attached.shared()
    attached.load_shared(other.shared())
    assert attached.sketch() == other.sketch()
    assert not torch.allclose(logits(attached.model, "bert"), before)
    attached.load_shared(factors)
    assert torch.equal(logits(attached.model, "bert"), before)
    with pytest.raises(AdapterError, match="the set of frozen factors lacks"):
        attached.load_shared({})


def test_an_adapter_without_frozen_factors_takes_none(tiny_bert_folder):
    _, attached = attached_to(tiny_bert_folder, "bert", **KINDS["lora"])
    assert (attached.shared(), attached.shared_origin, attached.sketch()) == ({}, "none", {})
    attached.load_shared({})
    with pytest.raises(AdapterError, match="has no frozen factors"):
        attached.load_shared({"x": torch.zeros(1)})


PROGRAM = """
import sys
from pathlib import Path
from fedtune.state import digest
from tests.adapters.adapter_models import KINDS, attached_to
for kind in KINDS:
    attached = attached_to(Path(sys.argv[1]), "bert", **KINDS[kind])[1]
    print(kind, digest(attached.shared()), digest(attached.read()))
"""


def test_another_process_has_the_same_factors_bit_for_bit(tiny_bert_folder):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_bert_folder)], capture_output=True, text=True, check=True
    )
    theirs = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert theirs.keys() == KINDS.keys()
    for kind in KINDS:
        _, attached = attached_to(tiny_bert_folder, "bert", **KINDS[kind])
        assert theirs[kind] == [digest(attached.shared()), digest(attached.read())]
