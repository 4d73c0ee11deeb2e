"""Adapters on a 4-bit base (QLoRA, arXiv 2305.14314); bitsandbytes can do it on a CPU, slowly, which is enough here."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from fedtune.adapters.attach import attach
from fedtune.adapters.layers import is_quantised, weight_of
from fedtune.adapters.shift import Shift
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from tests.adapters.adapter_models import KINDS, batch, shake

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Wider than the other tiny models: NF4 has blocks of 64 numbers."""
    folder = tmp_path_factory.mktemp("wide_llama")
    config = LlamaConfig(
        vocab_size=64, hidden_size=128, num_hidden_layers=1, num_attention_heads=4, intermediate_size=256
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def load_nf4(folder):
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantisation, dtype=torch.float32, device_map={"": "cpu"}
    )
    return LoadedModel(model.requires_grad_(False).eval(), None, "", (), str(folder))


def logits(model):
    return model(**batch("llama")).logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_trains_and_exports_but_cannot_take_the_sum_up(folder, kind, tmp_path):
    loaded = load_nf4(folder)
    layer = loaded.model.model.layers[0].mlp.up_proj
    assert is_quantised(layer)
    dequantised, plain = weight_of(layer), LlamaForCausalLM.from_pretrained(folder).model.layers[0].mlp.up_proj.weight
    assert 0 < (dequantised - plain).norm() / plain.norm() < 0.2
    before = logits(loaded.model).detach()
    attached = attach(loaded, AdapterSection(rank=4, **KINDS[kind]), task="causal-lm")
    assert attached.target_shapes()["model.layers.0.mlp.up_proj"] == (256, 128)
    torch.testing.assert_close(logits(loaded.model), before, rtol=0, atol=1e-6)
    shake(attached)
    logits(loaded.model).square().mean().backward()
    assert all(bool(p.grad.any()) for p in attached.parameters().values())
    attached.save(tmp_path / "adapter", base=str(folder))
    found = PeftModel.from_pretrained(load_nf4(folder).model, tmp_path / "adapter")
    with torch.no_grad():
        plain = logits(load_nf4(folder).model)
        # Kernels for 4-bit weights may round to 16 bits inside: the last digits of an input then show in the third one.
        assert (logits(found) - logits(loaded.model)).abs().max() <= 0.01 * (plain - logits(loaded.model)).abs().max()
    with pytest.raises(AdapterError, match="quantised and cannot take up an adapter: load the base with"):
        attached.merged()
    out, in_ = attached.target_shapes()["model.layers.0.mlp.up_proj"]
    with pytest.raises(AdapterError, match=r'quantised and .* model.quantization = "none"'):
        attached.shift_to(Shift({"model.layers.0.mlp.up_proj.D": torch.ones(out, in_)}, "k"))
