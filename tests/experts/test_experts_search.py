"""The search tries what the paper tries and prefers what is right, then sure, then small."""

import json
import math

import pytest

from fedtune.errors import AdapterError, DataError
from fedtune.experts.expert import read_plain
from fedtune.experts.scoring import Bench
from fedtune.experts.search import ALPHAS, DENSITIES, Tried, best_of, settings, try_all
from fedtune.recipe.compression import CompressionSection
from fedtune.recipe.load import load_recipe
from fedtune.training.base import Score
from tests.experts.experts_examples import flat, largest, make_adapter
from tests.factories import SENTENCES


@pytest.fixture(scope="module")
def adapter(tiny_bert_folder, tmp_path_factory):
    return read_plain(make_adapter(tmp_path_factory.mktemp("search") / "adapter", tiny_bert_folder))


def tried(right, loss, density=0.1):
    return Tried(CompressionSection(density=density), Score(10, loss * 10, right))


def test_every_density_is_tried_with_every_scale():
    found = [(section.density, section.scale, section.alpha) for section in settings()]
    factors = {(density, "sigma", alpha) for density in DENSITIES for alpha in ALPHAS}
    assert set(found) == factors | {(density, "least-squares", 1.0) for density in DENSITIES}
    assert len(found) == 50


def test_what_is_scored_is_what_the_file_gives_back(adapter):
    seen = []
    list(
        try_all(
            adapter, lambda made: seen.append(flat(made)) or Score(1, 0.0, 1.0), settings([0.1], [3.0]), head="fp16"
        )
    )
    before = flat(adapter)
    mask = largest(before, 0.1)
    least_squares, sigma = (float(numbers.abs().max()) for numbers in seen)
    assert all(bool(((numbers != 0) == mask).all()) for numbers in seen)
    assert least_squares == pytest.approx(float(before[mask].abs().double().mean()))
    assert sigma == pytest.approx(3 * float(before.double().std(correction=0)))


def test_right_predictions_come_first_then_loss_then_size():
    assert best_of([tried(5, 0.1), tried(6, 9.0)]) == tried(6, 9.0)
    assert best_of([tried(6, 0.3), tried(6, 0.2), tried(6, math.nan)]) == tried(6, 0.2)
    assert best_of([tried(6, 0.2, 0.5), tried(6, 0.2, 0.1), tried(6, 0.2, 0.3)]) == tried(6, 0.2, 0.1)


def recipe(tmp_path, model, **changes):
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"text": SENTENCES[i % 6], "label": "abc"[i % 3]}) for i in range(30))
    )
    keys = {
        "model.name": str(model),
        "model.labels": ["a", "b", "c"],
        "data.source": str(tmp_path / "rows.jsonl"),
        "training.device": "cpu",
        **changes,
    }
    (tmp_path / "my.toml").write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items()))
    return load_recipe(str(tmp_path / "my.toml"))


def test_no_row_is_both_chosen_and_reported_by(adapter, tiny_bert_folder, tmp_path):
    made = recipe(tmp_path, tiny_bert_folder, **{"data.test_fraction": 0.4})
    bench = Bench.of(made, [adapter.adapter()], examples=1000)
    assert (len(bench.examples), len(bench.rest)) == (11, 1)


def test_a_recipe_without_test_rows_is_refused(adapter, tiny_bert_folder, tmp_path):
    made = recipe(tmp_path, tiny_bert_folder, **{"data.test_fraction": 0.0})
    with pytest.raises(DataError, match="keeps no test rows to choose by: set"):
        Bench.of(made, [adapter.adapter()], examples=5)


def test_another_model_is_refused(adapter, tiny_gpt2_folder, tmp_path):
    made = recipe(tmp_path, tiny_gpt2_folder)
    with pytest.raises(AdapterError, match="no linear layer is called"):
        Bench.of(made, [adapter.adapter()], examples=5)
