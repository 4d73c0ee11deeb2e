"""Which layers a recipe's targets mean, on the names that families of models really have."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    Dinov2Config,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from fedtune.adapters.attach import attach
from fedtune.adapters.targets import resolve_targets
from fedtune.errors import AdapterError
from fedtune.models.base import LoadedModel
from fedtune.recipe import AdapterSection
from tests.adapters.adapter_models import KINDS, load


def loaded_from(model: nn.Module, *head: str) -> LoadedModel:
    return LoadedModel(model.eval().requires_grad_(False), None, "", head, "tiny")


def kinds(names):
    return {name.rpartition(".")[2] for name in names}


@pytest.fixture(scope="module")
def bert(tiny_bert_folder):
    return load(tiny_bert_folder, "bert")


@pytest.fixture(scope="module")
def distilbert():
    config = DistilBertConfig(vocab_size=40, dim=16, n_layers=1, n_heads=2, hidden_dim=24)
    return loaded_from(DistilBertForSequenceClassification(config), "classifier", "pre_classifier")


@pytest.fixture(scope="module")
def dinov2():
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
    return loaded_from(AutoModelForImageClassification.from_config(config), "classifier")


def test_all_linear_is_everything_but_head_and_output(bert, distilbert, tiny_llama_folder, tiny_gpt2_folder):
    assert kinds(resolve_targets(bert, "all-linear")) == {"query", "key", "value", "dense"}
    assert kinds(resolve_targets(distilbert, "all-linear")) == {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"}
    llama = resolve_targets(load(tiny_llama_folder, "llama"), "all-linear")
    assert len(llama) == 2 * 7
    assert "lm_head" not in llama
    assert kinds(resolve_targets(load(tiny_gpt2_folder, "gpt2"), "all-linear")) == {"c_attn", "c_proj", "c_fc"}


def test_attention_is_query_and_value_whatever_they_are_called(bert, distilbert, dinov2, tiny_vit_folder):
    assert kinds(resolve_targets(bert, "attention")) == {"query", "value"}
    assert kinds(resolve_targets(distilbert, "attention")) == {"q_lin", "v_lin"}
    assert kinds(resolve_targets(dinov2, "attention")) == {"q_proj", "v_proj"}
    assert kinds(resolve_targets(load(tiny_vit_folder, "vit"), "attention")) == {"q_proj", "v_proj"}


def test_names_are_whole_parts_as_in_peft(bert):
    assert len(resolve_targets(bert, ("query",))) == 2
    assert resolve_targets(bert, ("layer.1.attention.self.query",)) == ("bert.encoder.layer.1.attention.self.query",)
    with pytest.raises(AdapterError, match='no linear layer is called "uery"; did you mean "query"'):
        resolve_targets(bert, ("uery",))


MISTAKES = {
    ("self.valeu",): 'called "self.valeu"; did you mean "self.value"?; this model has "classifier", "dense", "key"',
    ("word_embeddings",): '"word_embeddings" is of class Embedding, and only linear layers can be adapted',
    ("classifier",): '"classifier" is the task head',
    ("query", "zzzz"): 'no linear layer is called "zzzz"; this model has',
}


@pytest.mark.parametrize("wanted", MISTAKES)
def test_a_wrong_name_is_one_sentence_that_says_what_there_is(bert, wanted):
    with pytest.raises(AdapterError) as caught:
        resolve_targets(bert, wanted)
    assert MISTAKES[wanted] in str(caught.value)


def test_a_weight_that_is_used_twice_is_refused():
    config = LlamaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    for tied in (True, False):
        config.tie_word_embeddings = tied
        model = loaded_from(LlamaForCausalLM(config))
        if tied:
            with pytest.raises(AdapterError, match='"lm_head" shares its weight with another module'):
                resolve_targets(model, ("lm_head",))
        else:
            assert resolve_targets(model, ("lm_head",)) == ("lm_head",)
    twice = nn.Module()
    twice.left = twice.right = nn.Linear(4, 4)
    with pytest.raises(AdapterError, match="shares its weight"):
        resolve_targets(loaded_from(twice), "all-linear")


def test_a_model_without_known_projections_says_so():
    model = loaded_from(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    with pytest.raises(AdapterError, match='targets = "attention" fits no layer of tiny: name some of "0"'):
        resolve_targets(model, "attention")


def test_a_projection_that_torch_never_calls_is_no_target():
    model = loaded_from(nn.TransformerEncoderLayer(8, 2, 16))
    assert resolve_targets(model, "all-linear") == ("linear1", "linear2")


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_named_layer_is_adapted_where_another_name_ends_alike(kind):
    """PEFT would take `inner.proj` for `proj` as well."""
    model = nn.ModuleDict({"proj": nn.Linear(8, 8), "inner": nn.ModuleDict({"proj": nn.Linear(8, 8)})})
    attached = attach(
        loaded_from(model), AdapterSection(rank=2, targets=("inner.proj",), **KINDS[kind]), task="causal-lm"
    )
    assert attached.targets() == ("inner.proj",)
    assert type(model["proj"]) is nn.Linear


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_adapter_on_one_model_is_refused(tiny_bert_folder, kind):
    loaded = load(tiny_bert_folder, "bert")
    section = AdapterSection(rank=2, targets="attention", **KINDS[kind])
    attach(loaded, section, task="sequence-classification")
    with pytest.raises(AdapterError, match="carries an adapter already"):
        attach(loaded, section, task="sequence-classification")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 99},
        {"kind": "lora", "init": "weights"},
        {"kind": "lora", "init": "random"},
        {"init": "kaiming"},
        {"alpha": 3.0},
        {"dropout": 0.1},
    ],
)
def test_a_section_that_does_not_fit_leaves_the_model_as_it_was(tiny_bert_folder, wrong):
    loaded = load(tiny_bert_folder, "bert")
    before = [(name, type(module)) for name, module in loaded.model.named_modules()]
    with pytest.raises(AdapterError, match="adapter\\."):
        attach(loaded, AdapterSection(**{"rank": 4, **wrong}), task="sequence-classification")
    assert [(name, type(module)) for name, module in loaded.model.named_modules()] == before
    attach(loaded, AdapterSection(rank=4), task="sequence-classification")


@pytest.mark.parametrize("kind", KINDS)
def test_attaching_leaves_the_global_random_state_alone(tiny_bert_folder, kind):
    loaded = load(tiny_bert_folder, "bert")
    before = torch.get_rng_state()
    attach(loaded, AdapterSection(rank=4, **KINDS[kind]), task="sequence-classification")
    assert torch.equal(torch.get_rng_state(), before)
