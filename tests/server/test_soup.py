"""Soups at the end of a run: the adapter is the mean of the kept models, and the greedy one never scores less."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from fedtune.aggregation.frame import frame_of
from fedtune.runs.folder import RunFolder
from fedtune.runs.world import world_of
from fedtune.training.resident import Resident
from simulations.simulate import simulate
from tests.federation import recipe_for
from tests.worlds import write_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 100)


def weights(model, targets):
    """ΔW of an exported adapter by module, from the weights that PEFT merges."""
    merged = model.merge_and_unload()
    return {name: merged.get_submodule(name).weight.detach().double() for name in targets}


@pytest.mark.parametrize("method", ["fedit", "fed-sb", "fedex-lora"])
def test_a_uniform_soup_is_the_mean_of_the_kept_models(tiny_bert_folder, rows, tmp_path, method):
    lines = (f'method="{method}"', 'run.soup="uniform"', "run.keep_checkpoints=9", "training.lr=0.05")
    run = RunFolder.open(simulate(recipe_for(tiny_bert_folder, rows, tmp_path, *lines)))
    home = Resident.build(run.recipe)
    frame = frame_of(home.attached, run.recipe.adapter)
    worlds = [world_of(run.checkpoints.load(str(round_))) for round_ in (1, 2, 3)]
    base = AutoModelForSequenceClassification.from_pretrained(run.recipe.model.name, num_labels=2)
    before = {name: base.get_submodule(name).weight.detach().double().clone() for name in frame.modules}
    after = weights(PeftModel.from_pretrained(base, str(run.adapter_path)), frame.modules)
    for name in frame.modules:
        products = [world.shift.dense().get(name, 0.0) + _dense(frame.products(world.state)[name]) for world in worlds]
        expected = sum(products) / len(products)
        assert torch.linalg.norm(after[name] - before[name] - expected) <= 1e-5 * torch.linalg.norm(expected)
    assert 0 <= run.info.facts["soup accuracy"] <= 1


def _dense(pair):
    a, b = pair
    return b @ a


def test_a_greedy_soup_scores_at_least_what_the_best_round_does(tiny_bert_folder, rows, tmp_path):
    lines = ('method="fed-sb"', 'run.soup="greedy"', "run.keep_checkpoints=9", "training.lr=0.05")
    lines += ("federation.rounds=5", "training.epochs=3")
    run = RunFolder.open(simulate(recipe_for(tiny_bert_folder, rows, tmp_path, *lines)))
    best = max(record.central.accuracy for record in run.rounds()[1:])
    assert run.info.facts["soup accuracy"] >= best
