"""The adapted model under what training does to it: recomputed activations, autocast, compilation, other dtypes."""

import pytest
import torch
from torch import nn

from fedtune.adapters.attach import attach
from fedtune.recipe import AdapterSection
from tests.adapters.adapter_models import KINDS, attached_to, batch, load, logits, shake

FAMILIES = ["bert", "llama", "gpt2", "vit"]
every = pytest.mark.parametrize(("family", "kind"), [(f, k) for f in FAMILIES for k in KINDS])


@pytest.fixture
def folder(request, family):
    return request.getfixturevalue(f"tiny_{family}_folder")


def gradients(attached, family):
    for parameter in attached.parameters().values():
        parameter.grad = None
    attached.model.train()
    attached.model(**batch(family)).logits.square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in attached.parameters().items()}


@every
def test_recomputed_activations_give_the_same_gradients(folder, family, kind):
    loaded, attached = attached_to(folder, family, **KINDS[kind])
    shake(attached)
    for module in loaded.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain = gradients(attached, family)
    loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    recomputed = gradients(attached, family)
    assert all(bool(gradient.any()) for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7)


@every
def test_the_forward_pass_is_one_graph(folder, family, kind):
    """No side effects, no fallbacks to Python: `fullgraph` raises at any break that the base model does not have."""
    _, attached = attached_to(folder, family, **KINDS[kind])
    shake(attached)
    layer = attached.model.get_submodule(attached.targets()[0])
    x = torch.randn(2, 3, attached.target_shapes()[attached.targets()[0]][1])
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), layer(x))


@every
def test_autocast_stays_near_full_precision(folder, family, kind):
    _, attached = attached_to(folder, family, **KINDS[kind])
    shake(attached, scale=0.05)
    full = logits(attached.model, family)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = logits(attached.model, family)
    assert (half.float() - full).abs().max() <= 0.05 * full.abs().max()
    assert not torch.equal(half.float(), full)


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_precision_base_gets_a_product_of_full_precision(tiny_bert_folder, kind):
    loaded = load(tiny_bert_folder, "bert")
    loaded.model.to(torch.bfloat16)
    attached = attach(loaded, AdapterSection(rank=4, head=False, **KINDS[kind]), task="sequence-classification")
    shake(attached)
    saved, name = attached.saved("x"), attached.targets()[0]
    a, b = (factor.double() for factor in saved.products[name])
    layer = attached.model.get_submodule(name)
    x = torch.randn(3, a.shape[1], generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = layer.base_layer(x).float() + (x.double() @ a.T @ b.T).float()
    found = layer(x)
    assert found.dtype == torch.bfloat16
    # One rounding of the sum, and one of the product before it: bfloat16 keeps 8 bits.
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=2**-8)


def test_dropout_is_for_training_alone(tiny_bert_folder):
    loaded, attached = attached_to(tiny_bert_folder, "bert", kind="lora", init="kaiming", dropout=0.5)
    of_adapters = {m for name, m in loaded.model.named_modules() if "lora_dropout" in name}
    for module in loaded.model.modules():
        if isinstance(module, nn.Dropout) and module not in of_adapters:
            module.p = 0.0
    shake(attached)
    assert torch.equal(logits(attached.model, "bert"), logits(attached.model, "bert"))
    attached.model.train()
    with torch.no_grad():
        one, two = (attached.model(**batch("bert")).logits for _ in range(2))
    assert not torch.equal(one, two)


def test_loras_alpha_scales_the_product(tiny_bert_folder):
    _, plain = attached_to(tiny_bert_folder, "bert", kind="lora", init="kaiming", targets="attention")
    _, scaled = attached_to(tiny_bert_folder, "bert", kind="lora", init="kaiming", targets="attention", alpha=8.0)
    shake(plain)
    state = plain.read()
    scaled.load({n: t / 2 if n.endswith("lora_B") else t for n, t in state.items()})
    torch.testing.assert_close(logits(scaled.model, "bert"), logits(plain.model, "bert"), rtol=1e-5, atol=1e-6)


def test_kaiming_draws_within_the_papers_bound(tiny_bert_folder):
    _, attached = attached_to(tiny_bert_folder, "bert", kind="lora", init="kaiming", rank=16)
    for name, tensor in attached.read().items():
        if name.endswith("lora_A"):
            bound = tensor.shape[1] ** -0.5
            assert tensor.abs().max() <= bound
            # Uniform on ±bound: standard deviation bound/√3; 512 draws or more.
            assert abs(tensor.std().item() / (bound / 3**0.5) - 1) < 0.1
