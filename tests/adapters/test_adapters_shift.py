"""Base weights that rounds have added to: exact, taken back bit for bit, and part of what is exported."""

import copy
import math

import pytest
import torch
from peft import PeftModel
from torch import nn

from fedtune.adapters.attach import attach
from fedtune.adapters.layers import base_of, weight_of
from fedtune.adapters.read import read_adapter
from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.adapters.stack import stacked
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from fedtune.state import digest
from tests.adapters.adapter_models import AUTO, FAMILIES, KINDS, OPTIONS, attached_to, load, logits, shake

FORMS = ("factors", "dense", "wide", "mixed")
every = pytest.mark.parametrize(("family", "kind"), [(f, k) for f in FAMILIES for k in KINDS])


@pytest.fixture
def folder(request, family):
    return request.getfixturevalue(f"tiny_{family}_folder")


def some_shift(attached, form="factors", seed=0, scale=0.1):
    """A change of half of the targets: factors of rank 3, dense, of more than the full rank, or all of these."""
    draw = torch.Generator().manual_seed(seed)
    increment = {}
    for i, (name, (out, in_)) in enumerate(sorted(attached.target_shapes().items())[::2]):
        own = FORMS[i % 3] if form == "mixed" else form
        inner = {"factors": 3, "wide": min(out, in_) - 2, "dense": 0}[own]
        if inner:
            increment[f"{name}.U"] = scale * torch.randn(out, inner, generator=draw)
            increment[f"{name}.V"] = scale * torch.randn(inner, in_, generator=draw)
        else:
            increment[f"{name}.D"] = scale * torch.randn(out, in_, generator=draw)
    return Shift(increment, f"{form} {seed}")


def base_weights(attached):
    own = {id(p) for p in attached.parameters().values()}
    return {name: p.detach().clone() for name, p in attached.model.named_parameters() if id(p) not in own}


@every
@pytest.mark.parametrize("form", FORMS)
def test_weights_are_the_sum_rounded_once_and_come_back_bit_for_bit(folder, family, kind, form):
    _, attached = attached_to(folder, family, **KINDS[kind])
    shake(attached)
    shift = some_shift(attached, form)
    before, sketch, state = base_weights(attached), attached.sketch(), digest(attached.read())
    plain = {name: weight_of(base_of(attached.model.get_submodule(name))).clone() for name in attached.targets()}
    attached.shift_to(shift)
    dense = shift.dense()
    for name, weight in plain.items():
        expected = (weight.double() + dense[name]).float() if name in dense else weight
        assert torch.equal(weight_of(base_of(attached.model.get_submodule(name))), expected)
    changed = {name for name, w in base_weights(attached).items() if not torch.equal(w, before[name])}
    assert {name.removesuffix(".weight").removesuffix(".base_layer") for name in changed} == dense.keys()
    assert (attached.sketch(), digest(attached.read())) == (sketch, state)
    attached.shift_to(NO_SHIFT)
    assert all(torch.equal(w, before[name]) for name, w in base_weights(attached).items())


@every
def test_the_model_computes_what_one_with_other_base_weights_does(folder, family, kind):
    _, attached = attached_to(folder, family, **KINDS[kind])
    shift = some_shift(attached)
    other = load(folder, family)
    for name, change in shift.dense().items():
        layer = other.model.get_submodule(name)
        with torch.no_grad():
            weight_of(layer).copy_(weight_of(layer) + change)
    attached.shift_to(shift)
    torch.testing.assert_close(logits(attached.model, family), logits(other.model, family), rtol=1e-5, atol=1e-6)


def test_a_shift_replaces_the_one_before_and_repeating_it_is_free(tiny_gpt2_folder):
    _, attached = attached_to(tiny_gpt2_folder, "gpt2", **KINDS["lora"])
    first, second = some_shift(attached, "mixed", 1), some_shift(attached, "dense", 2)
    last = attached.targets()[-1]
    assert last not in second.dense()
    elsewhere = Shift({f"{last}.D": torch.ones(attached.target_shapes()[last])}, "elsewhere")
    attached.shift_to(second)
    alone = base_weights(attached)
    attached.shift_to(first)
    attached.shift_to(elsewhere)
    attached.shift_to(second)
    assert all(torch.equal(w, alone[name]) for name, w in base_weights(attached).items())
    versions = [p._version for p in attached.model.parameters()]
    attached.shift_to(Shift(second.tensors, second.key))
    assert [p._version for p in attached.model.parameters()] == versions


def test_only_targets_change_where_weights_are_tied(tiny_llama_folder):
    loaded, attached = attached_to(tiny_llama_folder, "llama", **KINDS["lora"])
    tied = loaded.model.lm_head.weight
    before = tied.detach().clone()
    attached.shift_to(some_shift(attached))
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight is tied
    assert torch.equal(tied, before)


def test_a_half_precision_base_takes_the_sum_in_its_own_precision(tiny_bert_folder):
    loaded, attached = attached_to(tiny_bert_folder, "bert", **KINDS["square"])
    loaded.model.to(torch.bfloat16)
    name = attached.targets()[0]
    layer = base_of(attached.model.get_submodule(name))
    before = layer.weight.detach().clone()
    shift = some_shift(attached)
    attached.shift_to(shift)
    assert torch.equal(layer.weight, (before.double() + shift.dense()[name]).bfloat16())
    attached.shift_to(NO_SHIFT)
    assert torch.equal(layer.weight, before)


BAD = {
    "unknown": ({"x.y.D": (2, 2)}, 0.0, "'x.y', which this adapter does not sit on"),
    "shape": ({"m.D": (32, 33)}, 0.0, "does not fit its 32 x 32 numbers"),
    "half": ({"m.U": (32, 2)}, 0.0, "does not fit its"),
    "inner": ({"m.U": (32, 2), "m.V": (3, 32)}, 0.0, "does not fit its"),
    "name": ({"m.D": (32, 32), "m.W": (32, 32)}, 0.0, "does not fit its"),
    "nan": ({"m.D": (32, 32)}, math.nan, "holds NaN or infinity"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_a_shift_that_does_not_fit_changes_nothing(tiny_bert_folder, wrong):
    _, attached = attached_to(tiny_bert_folder, "bert", **KINDS["lora"])
    shapes, value, sentence = BAD[wrong]
    other = "bert.encoder.layer.0.attention.self.key"
    good = some_shift(attached)
    assert other not in good.dense()
    attached.shift_to(good)
    before = base_weights(attached)
    bad = {name.replace("m.", f"{other}."): torch.full(shape, value) for name, shape in shapes.items()}
    bad |= some_shift(attached, seed=5).tensors
    with pytest.raises(AdapterError, match=sentence):
        attached.shift_to(Shift(bad, "bad"))
    assert all(torch.equal(w, before[name]) for name, w in base_weights(attached).items())
    attached.shift_to(NO_SHIFT)
    attached.shift_to(good)
    assert all(torch.equal(w, before[name]) for name, w in base_weights(attached).items())


@every
@pytest.mark.parametrize("form", FORMS)
def test_the_export_on_the_plain_base_holds_the_shift(folder, family, kind, form, tmp_path):
    _, attached = attached_to(folder, family, **KINDS[kind])
    shake(attached, scale=0.1)
    attached.shift_to(some_shift(attached, form, scale=0.03))
    shifted = logits(attached.model, family)
    merged = attached.merged()
    assert (logits(merged, family) - shifted).abs().max() <= 1e-5
    attached.save(tmp_path / "adapter", base=str(folder))
    plain = AUTO[FAMILIES[family]].from_pretrained(folder, **OPTIONS[family])
    fresh = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert (logits(fresh, family) - shifted).abs().max() <= 1e-5
    found = read_adapter(tmp_path / "adapter").products
    for name, (a, b) in stacked(attached.products(attached.read()), some_shift(attached, form, scale=0.03)).items():
        torch.testing.assert_close(found[name][1] @ found[name][0], (b @ a).float(), rtol=1e-4, atol=1e-6)
    attached.shift_to(NO_SHIFT)
    assert (logits(attached.model, family) - shifted).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("inner", "dense", "rank"), [(0, False, 4), (3, False, 7), (12, False, 16), (13, False, 16), (0, True, 16)]
)
@pytest.mark.parametrize("shape", [(16, 20), (20, 16)])
def test_a_stack_is_exact_and_no_larger_than_the_full_rank(inner, dense, rank, shape):
    draw = torch.Generator().manual_seed(inner)
    out, in_ = shape
    a, b, u, v, d = (
        torch.randn(*size, generator=draw) for size in [(4, in_), (out, 4), (out, inner), (inner, in_), shape]
    )
    tensors = {"m.D": d} if dense else {"m.U": u, "m.V": v} if inner else {}
    found_a, found_b = stacked({"m": (a.double(), b.double())}, Shift(tensors, "k"))["m"]
    change = d.double() if dense else u.double() @ v.double()
    torch.testing.assert_close(found_b @ found_a, b.double() @ a.double() + change, rtol=1e-12, atol=1e-12)
    assert found_a.shape == (rank, in_)
    assert found_b.shape == (out, rank)


def test_ranks_are_those_of_the_module_where_another_name_ends_alike(tmp_path):
    """PEFT takes a name without `^` for `inner.proj` as well."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(8, 8)
            self.inner = nn.ModuleDict({"proj": nn.Linear(8, 8)})

        def forward(self, x):
            return self.proj(self.inner["proj"](x))

    model = Two()
    plain = copy.deepcopy(model)
    loaded = LoadedModel(model, None, "", (), "two")
    attached = attach(loaded, AdapterSection(rank=2, **KINDS["lora"]), task="image-classification")
    shake(attached)
    attached.shift_to(Shift({"inner.proj.U": torch.ones(8, 1), "inner.proj.V": torch.ones(1, 8)}, "one"))
    assert attached.saved("two").ranks() == {"inner.proj": 3, "proj": 2}
    attached.save(tmp_path / "adapter", base="two")
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = PeftModel.from_pretrained(plain, tmp_path / "adapter")(x)
        torch.testing.assert_close(found, model(x), rtol=1e-5, atol=1e-5)
    read = read_adapter(tmp_path / "adapter")
    assert read.ranks() == {"inner.proj": 3, "proj": 2}
