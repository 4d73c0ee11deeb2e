"""`model.dropout`: what a base drops while it trains, whatever its family calls it, and what it is without it."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, Dinov2Config, DistilBertConfig, GPT2Config, LlamaConfig

from fedtune.models import load_model
from fedtune.models.dropout import chances, set_chances
from fedtune.recipe import ModelSection


@pytest.mark.parametrize("kind", [BertConfig, GPT2Config, LlamaConfig, Dinov2Config, DistilBertConfig])
def test_every_chance_of_a_family_is_found_and_set(kind: type) -> None:
    config = kind()
    before = config.to_dict()
    set_chances(config, 0.25)
    changed = {name for name, value in config.to_dict().items() if value != before[name]}
    assert changed
    assert changed <= chances(config).keys()
    assert set(chances(config).values()) == {0.25}
    assert all("drop" in name for name in changed)


@pytest.mark.parametrize(("dropout", "expected"), [(None, 0.1), (0.0, 0.0), (0.3, 0.3)])
def test_a_loaded_model_drops_what_the_recipe_says(
    tiny_bert_folder: Path, dropout: float | None, expected: float
) -> None:
    section = ModelSection(name=str(tiny_bert_folder), labels=("a", "b"), dropout=dropout)
    loaded = load_model(section, device=torch.device("cpu"), seed=0)
    found = {module.p for module in loaded.model.modules() if isinstance(module, nn.Dropout)}
    assert found == {expected}
    ids = torch.arange(4, 10)[None]
    loaded.model.train()
    first, second = loaded.model(input_ids=ids).logits, loaded.model(input_ids=ids).logits
    assert torch.equal(first, second) == (expected == 0)
    own = load_model(section.model_copy(update={"dropout": None}), device=torch.device("cpu"), seed=0)
    assert own.fingerprint == loaded.fingerprint
