"""A compressed adapter comes back as its signs and scale, is as small as its entropy allows, and loads into PEFT."""

import shutil
from math import log2

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from fedtune.adapters.saved import CARD, COMPRESSED, CONFIG, WEIGHTS
from fedtune.errors import AdapterError, RunError
from fedtune.experts.compressed import compress, read_compressed, read_expert
from fedtune.experts.expert import measure, read_plain
from fedtune.experts.kinds import KINDS
from fedtune.experts.place import refuse_taken
from fedtune.recipe.compression import CompressionSection
from fedtune.state import digest
from tests.adapters.adapter_models import logits
from tests.experts.experts_examples import PEFT_IA3, change_config, flat, largest, make_adapter, products_of, size

CODERS = ("rice", "entropy", "bitmask")


@pytest.fixture(scope="module")
def lora(tiny_bert_folder, tmp_path_factory):
    return make_adapter(tmp_path_factory.mktemp("lora") / "adapter", tiny_bert_folder)


def through_the_disk(folder, to, section=None, **options):
    compress(read_plain(folder), section, **options).write(to)
    return read_expert(to)


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
def test_what_is_kept_is_the_scale_with_its_sign_and_all_else_zero(lora, tmp_path, coder, density):
    before = flat(read_plain(lora))
    found = through_the_disk(lora, tmp_path / "small", CompressionSection(density=density), coder=coder)
    mask = largest(before, density)
    scale = before[mask].double().abs().mean().float()
    torch.testing.assert_close(flat(found), torch.where(mask, scale * before.sign(), 0.0), rtol=0, atol=0)


def test_all_of_it_at_one_deviation(lora, tmp_path):
    before = flat(read_plain(lora))
    section = CompressionSection(density=1.0, scale="sigma", alpha=2.0)
    found = flat(through_the_disk(lora, tmp_path / "small", section))
    sigma = (before.double() - before.double().mean()).square().mean().sqrt()
    torch.testing.assert_close(found, 2.0 * sigma.float() * before.sign(), rtol=1e-6, atol=0)


def test_each_tensor_has_a_scale_of_its_own_where_that_is_asked_for(lora, tmp_path):
    section = CompressionSection(density=0.1, threshold="tensor")
    before = read_plain(lora).deltas
    after = through_the_disk(lora, tmp_path / "small", section).deltas
    for name, tensor in before.items():
        mask = largest(tensor.reshape(-1), 0.1)
        expected = tensor.reshape(-1)[mask].double().abs().mean().float() * tensor.reshape(-1).sign() * mask
        torch.testing.assert_close(after[name].reshape(-1), expected, rtol=1e-6, atol=0)
    assert read_compressed(tmp_path / "small").masks() is None


def test_the_restored_folder_gives_peft_the_logits_of_what_was_decoded(lora, tiny_bert_folder, tmp_path):
    through_the_disk(lora, tmp_path / "small", CompressionSection(density=0.3), head="as-is").write(tmp_path / "plain")
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {CONFIG, WEIGHTS, CARD}
    assert (tmp_path / "plain" / CONFIG).read_bytes() == (lora / CONFIG).read_bytes()
    fresh = AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder, num_labels=3)
    with_adapter = PeftModel.from_pretrained(fresh, tmp_path / "plain")
    by_hand = AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder, num_labels=3)
    with torch.no_grad():
        for name, change in products_of(tmp_path / "plain").items():
            weight = by_hand.get_submodule(name).weight
            weight.copy_(weight.double() + change)
        tensors = load_file(lora / WEIGHTS)
        for name, parameter in by_hand.classifier.named_parameters():
            parameter.copy_(tensors[f"base_model.model.classifier.{name}"])
    assert (logits(with_adapter, "bert") - logits(by_hand, "bert")).abs().max() <= 1e-5


def test_compressing_what_was_restored_gives_the_same_again(lora, tmp_path):
    once = through_the_disk(lora, tmp_path / "small")
    once.write(tmp_path / "plain")
    twice = through_the_disk(tmp_path / "plain", tmp_path / "again")
    assert digest(once.tensors) == digest(twice.tensors)
    assert size(tmp_path / "small", COMPRESSED) == size(tmp_path / "again", COMPRESSED)


@pytest.mark.parametrize(("density", "coder"), [(0.05, "rice"), (0.2, "rice"), (0.05, "entropy")])
def test_the_file_is_as_small_as_its_entropy_and_a_header(lora, tmp_path, density, coder):
    big = tmp_path / "big"
    shutil.copytree(lora, big)
    draw = torch.Generator().manual_seed(5)
    tensors = {f"base_model.model.layer.{p}.weight": torch.randn(s, generator=draw) for p, s in PARTS.items()}
    save_file(tensors, big / WEIGHTS)
    packed = compress(read_plain(big), CompressionSection(density=density), coder=coder)
    entropy = -((1 - density) * log2(1 - density) + density * log2(density / 2)) * 8 * 100_000 / 8
    assert packed.write(tmp_path / "small") <= 1.03 * entropy + 1500
    assert size(big) > 3_200_000


PARTS = {"lora_A": (4, 100_000), "lora_B": (100_000, 4)}


def test_a_head_is_half_precision_as_it_is_or_signs(lora, tmp_path):
    before = read_plain(lora)
    assert list(before.others) == ["base_model.model.classifier.bias", "base_model.model.classifier.weight"]
    for head, dtype in (("fp16", torch.float16), ("as-is", torch.float32)):
        after = through_the_disk(lora, tmp_path / head, head=head)
        for name, tensor in before.others.items():
            torch.testing.assert_close(after.tensors[name], tensor.to(dtype).float(), rtol=0, atol=0)
    signs = through_the_disk(lora, tmp_path / "signs", head="ternary", section=CompressionSection(density=0.5))
    values = torch.cat([tensor.reshape(-1) for tensor in signs.tensors.values()]).abs().unique()
    assert len(values) == 2


def test_scales_of_ia3_are_counted_from_one(tiny_bert_folder, tmp_path):
    folder = make_adapter(tmp_path / "ia3", tiny_bert_folder, **{**PEFT_IA3, "alpha": None, "targets": "all-linear"})
    before = read_plain(folder)
    assert before.deltas
    after = through_the_disk(folder, tmp_path / "small", CompressionSection(density=0.1))
    numbers = torch.cat([after.tensors[name].reshape(-1) for name in after.deltas])
    assert (numbers == 1).double().mean() == pytest.approx(0.9, abs=0.01)
    for name, tensor in before.deltas.items():
        torch.testing.assert_close(before.tensors[name], tensor + 1, rtol=0, atol=1e-6)


def test_dora_keeps_its_magnitudes_and_loads_into_peft(tiny_bert_folder, tmp_path):
    """An adapter of the library's own making: its magnitudes are weights, not changes, and stay as they are."""
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder)
    model = get_peft_model(base, LoraConfig(r=4, use_dora=True, target_modules=["query", "value"], task_type="SEQ_CLS"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "dora")
    before = read_plain(tmp_path / "dora")
    after = through_the_disk(tmp_path / "dora", tmp_path / "small", head="as-is")
    magnitudes = [name for name in before.others if "magnitude" in name]
    assert len(magnitudes) == len([name for name in before.deltas if "lora_A" in name])
    for name in magnitudes:
        torch.testing.assert_close(after.tensors[name], before.others[name], rtol=0, atol=0)
    after.write(tmp_path / "plain")
    fresh = AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder)
    again = PeftModel.from_pretrained(fresh, tmp_path / "plain").state_dict()
    found = [name for name in again if "magnitude" in name]
    assert len(found) == len(magnitudes)
    for name in found:
        stored = after.tensors[name.replace(".default", "").removesuffix(".weight")]
        torch.testing.assert_close(again[name], stored, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_each_tensor_comes_back_in_the_dtype_that_it_had(lora, tmp_path, dtype):
    folder = shutil.copytree(lora, tmp_path / "cast")
    save_file({name: tensor.to(dtype) for name, tensor in load_file(lora / WEIGHTS).items()}, folder / WEIGHTS)
    found = through_the_disk(folder, tmp_path / "small")
    assert {tensor.dtype for tensor in found.tensors.values()} == {dtype}


def test_the_error_is_that_of_the_vectors(lora, tmp_path):
    before, after = read_plain(lora).deltas, through_the_disk(lora, tmp_path / "small").deltas
    x, y = (torch.cat([state[name].reshape(-1) for name in sorted(state)]).double() for state in (before, after))
    error, cosine = measure(before, after)
    assert error == pytest.approx(float(((x - y) @ (x - y) / (x @ x)).sqrt()))
    assert cosine == pytest.approx(float(torch.cosine_similarity(x, y, dim=0)))
    assert error**2 + cosine**2 == pytest.approx(1)  # of the least-squares scale the error is at a right angle
    zero = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    assert measure(zero, zero) == (0.0, 1.0)
    assert measure(before, zero) == (1.0, 0.0)


def test_a_method_without_a_task_vector_in_its_folder_is_refused(lora, tmp_path):
    folder = change_config(shutil.copytree(lora, tmp_path / "prompt"), peft_type="PROMPT_TUNING")
    with pytest.raises(AdapterError, match="PROMPT_TUNING adapter, whose start is not in its folder") as caught:
        read_plain(folder)
    assert all(kind in str(caught.value) for kind in KINDS)


def test_a_compressed_folder_is_not_compressed_again_nor_a_plain_one_restored(lora, tmp_path):
    through_the_disk(lora, tmp_path / "small")
    with pytest.raises(AdapterError, match="is compressed already"):
        read_plain(tmp_path / "small")
    with pytest.raises(AdapterError, match=f"holds no {COMPRESSED}"):
        read_compressed(lora)


def test_only_an_adapter_is_ever_replaced(lora, tmp_path):
    refuse_taken(tmp_path / "new", force=False)
    with pytest.raises(RunError, match="exists; choose another"):
        refuse_taken(lora, force=False)
    refuse_taken(lora, force=True)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="holds no adapter"):
        refuse_taken(tmp_path, force=True)
