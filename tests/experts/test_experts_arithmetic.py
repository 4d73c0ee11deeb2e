"""The weighted sum of adapters is the weighted sum of their ΔW, and only those of one model are summed."""

import re
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from fedtune.adapters.export import write_adapter
from fedtune.adapters.saved import WEIGHTS
from fedtune.errors import AdapterError
from fedtune.experts.arithmetic import mean_head
from fedtune.experts.compose import Composer
from fedtune.experts.compressed import compress, read_expert
from fedtune.experts.expert import read_plain
from tests.adapters.adapter_models import logits
from tests.experts.experts_examples import PEFT_IA3, change_config, make_adapter, products_of


@pytest.fixture(scope="module")
def three(tiny_bert_folder, tmp_path_factory):
    """Adapters of ranks 4, 4 and 6, the second compressed."""
    folder = tmp_path_factory.mktemp("three")
    one = make_adapter(folder / "one", tiny_bert_folder, seed=1)
    compress(read_plain(make_adapter(folder / "two", tiny_bert_folder, seed=2))).write(folder / "small")
    return [one, folder / "small", make_adapter(folder / "three", tiny_bert_folder, seed=3, rank=6)]


@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.7, -0.4, 1.5), (0.0, 0.0, 0.0)])
def test_the_sum_is_the_float64_sum_of_the_products(three, tmp_path, weights):
    merged = Composer(three).task_arithmetic(weights)
    write_adapter(merged, tmp_path / "merged")
    assert set(merged.ranks().values()) == {14}
    read_expert(three[1]).write(tmp_path / "two")
    terms = [products_of(folder) for folder in (three[0], tmp_path / "two", three[2])]
    for name, product in products_of(tmp_path / "merged").items():
        expected = sum(weight * found[name] for weight, found in zip(weights, terms, strict=True))
        assert (product - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max()))


def test_ranks_stop_at_the_full_one(tiny_bert_folder, tmp_path):
    folders = [make_adapter(tmp_path / str(seed), tiny_bert_folder, seed=seed, rank=20) for seed in (1, 2)]
    merged = Composer(folders).task_arithmetic((1.0, -2.0))
    assert set(merged.ranks().values()) == {32}
    one, two = map(products_of, folders)
    for name, (a, b) in merged.products.items():
        torch.testing.assert_close(b.double() @ a.double(), one[name] - 2 * two[name], rtol=1e-6, atol=1e-6)


def test_peft_gives_the_logits_of_the_sum(three, tiny_bert_folder, tmp_path):
    merged = Composer(three).task_arithmetic((0.5, 0.25, 0.25))
    write_adapter(merged, tmp_path / "merged")
    fresh = AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder, num_labels=3)
    found = PeftModel.from_pretrained(fresh, tmp_path / "merged")
    by_hand = AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder, num_labels=3)
    with torch.no_grad():
        for name, (a, b) in merged.products.items():
            weight = by_hand.get_submodule(name).weight
            weight.copy_(weight.double() + b.double() @ a.double())
        for name, parameter in by_hand.classifier.named_parameters():
            parameter.copy_(merged.head[f"classifier.{name}"])
    assert (logits(found, "bert") - logits(by_hand, "bert")).abs().max() <= 1e-5


def test_heads_are_averaged_by_the_size_of_the_weights():
    heads = [{"h": torch.tensor([1.0, 2.0])}, {"h": torch.tensor([5.0, -2.0])}]
    assert mean_head(heads, (3.0, -1.0))["h"].tolist() == [2.0, 1.0]
    assert mean_head(heads, (0.0, 0.0))["h"].tolist() == [3.0, 0.0]
    assert mean_head([{}, {}], (1.0, 1.0)) == {}


def without_layer(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file({name: t for name, t in tensors.items() if "layer.1.attention.self.value" not in name}, folder / WEIGHTS)


def with_wider_head(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["base_model.model.classifier.bias"] = torch.zeros(4)
    save_file(tensors, folder / WEIGHTS)


OTHERS = {
    "another base": (
        lambda folder: change_config(folder, base_model_name_or_path="big"),
        "the base model 'big', not 'tiny'",
    ),
    "fewer layers": (without_layer, r"lacks 'bert.encoder.layer.1.attention.self.value' among the layers"),
    "another head": (with_wider_head, r"has 'classifier.bias' with shape \(4,\), not \(3,\) in its task head"),
    "the other way round": (lambda folder: change_config(folder, fan_in_fan_out=True), "the other way round"),
    "DoRA": (lambda folder: change_config(folder, use_dora=True), "not about a plain LoRA adapter"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_belongs_to_another_model_is_refused_by_what_differs(three, tmp_path, name):
    change, sentence = OTHERS[name]
    other = shutil.copytree(three[0], tmp_path / "other")
    change(other)
    with pytest.raises(AdapterError, match=sentence) as caught:
        Composer([three[0], other])
    assert re.match(r".*other", str(caught.value))
    assert "\n" not in str(caught.value)


def test_ia3_is_not_composed(three, tiny_bert_folder, tmp_path):
    other = make_adapter(tmp_path / "ia3", tiny_bert_folder, **{**PEFT_IA3, "alpha": None, "targets": "all-linear"})
    with pytest.raises(AdapterError, match="not about a plain LoRA adapter"):
        Composer([three[0], other])


def test_one_adapter_alone_is_nothing_to_merge(three):
    with pytest.raises(AdapterError, match="two adapters at least"):
        Composer(three[:1])
