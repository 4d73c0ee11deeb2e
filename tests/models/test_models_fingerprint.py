"""The fingerprint: the same for the same base, another for any other, and cheap."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from fedtune.models import fingerprint, load_model
from fedtune.recipe import ModelSection

HEAD = ("classifier",)


@pytest.fixture
def bert(tiny_bert_folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(tiny_bert_folder, num_labels=2)


def test_is_32_hex_digits(bert: Any) -> None:
    assert len(fingerprint(bert, HEAD)) == 32
    int(fingerprint(bert, HEAD), 16)


def test_leaves_out_the_head_and_its_labels(tiny_bert_folder: Path) -> None:
    prints = {
        load_model(
            ModelSection(name=str(tiny_bert_folder), labels=labels), device=torch.device("cpu"), seed=seed
        ).fingerprint
        for seed, labels in enumerate([("a", "b"), ("c", "d"), ("a", "b", "c")])
    }
    assert len(prints) == 1


def test_survives_saving_and_loading(bert: Any, tmp_path: Path) -> None:
    bert.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert fingerprint(again, HEAD) == fingerprint(bert, HEAD)


def test_is_the_same_in_half_precision_where_that_loses_nothing(bert: Any) -> None:
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.copy_(parameter.bfloat16())
    before = fingerprint(bert, HEAD)
    assert fingerprint(bert.bfloat16(), HEAD) == before


@pytest.mark.parametrize("name", ["bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.output.dense.weight"])
def test_sees_a_tensor_that_was_trained_on(name: str, bert: Any) -> None:
    before = fingerprint(bert, HEAD)
    with torch.no_grad():
        bert.get_parameter(name).add_(1e-4)
    assert fingerprint(bert, HEAD) != before


def test_sees_layers_that_changed_places(bert: Any) -> None:
    before = fingerprint(bert, HEAD)
    layers = bert.bert.encoder.layer
    layers[0], layers[1] = layers[1], layers[0]
    assert fingerprint(bert, HEAD) != before


def test_sees_a_config_that_computes_something_else(tiny_bert_folder: Path) -> None:
    plain = AutoModel.from_pretrained(tiny_bert_folder)
    other = AutoModel.from_pretrained(tiny_bert_folder, hidden_act="relu")
    assert fingerprint(plain, ()) != fingerprint(other, ())


def test_reads_little_of_a_large_model() -> None:
    """A model of 8 billion parameters without storage: only what is read can cost anything."""
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_key_value_heads=8, vocab_size=128256
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    read = 0
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        # One number seen from everywhere: as large as the real tensor to whoever indexes it, and four bytes in memory.
        stand_in = torch.zeros(1).expand(parameter.shape)
        setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(stand_in, requires_grad=False))
        read += 1
    assert numbers > 8e9
    assert read > 200
    assert len(fingerprint(model, ())) == 32
