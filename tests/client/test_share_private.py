"""What leaves a client under privacy: no count, no metric, and local noise where the coordinator is not trusted."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from client.work import Workplace
from fedtune.aggregation import Global
from fedtune.aggregation.frame import frame_of
from fedtune.privacy.local import released
from fedtune.privacy.plan import plan_of
from fedtune.recipe import Recipe
from fedtune.training.resident import resident
from fedtune.wire import Update, decode
from server.download import Download
from server.tasking import Tasking
from tests.client.places import Rows, ask, private_recipe

LOCAL = {"unit": "client", "delta": 1e-5, "noise_multiplier": 2.0, "noise": "client", "clip": 0.5}
CENTRAL = {"unit": "client", "delta": 1e-5, "noise_multiplier": 2.0, "sampling_rate": 0.5, "population": 10}


def with_privacy(folder: Path, model: Path, privacy: dict[str, Any], **sections: Any) -> Recipe:
    recipe = private_recipe(model, folder, data={"holdout_fraction": 0.0}, **sections)
    settled = type(recipe.privacy)(**privacy)
    return recipe.model_copy(update={"privacy": settled})


def asked_for_gradients(recipe: Recipe) -> Update:
    """A client's reply to the task before the first round, factors and all."""
    home = resident(recipe)
    tasking = Tasking(recipe, "run", home, frame_of(home.attached, recipe.adapter), Download(recipe))
    task = tasking.task("gradient", 0, Global(dict(home.initial)))
    reply = decode(Workplace(Rows(recipe)).answer("me", tasking.payloads(task, ["me"])["me"]))
    assert isinstance(reply, Update)
    return reply


@pytest.mark.parametrize("privacy", [None, LOCAL, CENTRAL], ids=["example", "local", "central"])
def test_an_update_tells_neither_rows_nor_metrics(
    privacy: dict[str, Any] | None, tiny_bert_folder: Path, tmp_path: Path
) -> None:
    recipe = private_recipe(tiny_bert_folder, tmp_path)
    if privacy:
        recipe = with_privacy(tmp_path, tiny_bert_folder, privacy)
    update = ask(Workplace(Rows(recipe)), recipe)
    assert isinstance(update, Update)
    assert (update.examples, dict(update.metrics), dict(update.control)) == (1, {}, {})


def test_a_gradient_for_the_start_is_noised_and_counts_as_one(tiny_bert_folder: Path, tmp_path: Path) -> None:
    adapter = {"kind": "square", "rank": 2, "targets": "attention", "init": "dp-gradient", "init_rows": 8}
    recipe = private_recipe(tiny_bert_folder, tmp_path, adapter=adapter)
    first, second = asked_for_gradients(recipe), asked_for_gradients(recipe)
    assert first.examples == 1
    assert set(first.tensors) == set(resident(recipe).attached.target_shapes())
    section = recipe.privacy
    spread = math.sqrt(2) * section.init_noise * section.clip / 8
    apart = torch.cat([(first.tensors[n] - second.tensors[n]).flatten() for n in first.tensors]).double() / spread
    assert stats.kstest(apart.numpy(), "norm").pvalue > 1e-9


def test_local_noise_is_on_the_whole_clipped_update(tiny_bert_folder: Path, tmp_path: Path) -> None:
    """Two replies to one task: plain steps are the same, so the difference is that of their noise."""
    recipe = with_privacy(tmp_path, tiny_bert_folder, LOCAL)
    first, second = (ask(Workplace(Rows(recipe)), recipe) for _ in range(2))
    assert isinstance(first, Update)
    assert isinstance(second, Update)
    assert set(first.tensors) == set(resident(recipe).initial)
    noise = torch.cat([(first.tensors[n] - second.tensors[n]).flatten() for n in first.tensors]).double()
    assert stats.kstest((noise / (math.sqrt(2) * 2.0 * 0.5)).numpy(), "norm").pvalue > 1e-9


def test_any_two_updates_are_at_most_twice_the_clip_apart(tiny_bert_folder: Path, tmp_path: Path) -> None:
    class Silent:
        def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64)

    plan = plan_of(with_privacy(tmp_path, tiny_bert_folder, LOCAL))
    long = {"a": torch.full((4,), 1e20), "b": torch.ones(3)}
    there, back = released(long, plan, Silent()), released({n: -t for n, t in long.items()}, plan, Silent())
    apart = math.sqrt(sum(float((there[n] - back[n]).double().square().sum()) for n in there))
    assert apart == pytest.approx(2 * 0.5, rel=1e-5)
    assert apart <= 1.0
    spoiled = released({"a": torch.tensor([math.nan, 1.0])}, plan, Silent())
    assert spoiled["a"].tolist() == [0.0, 0.0]


def test_nothing_is_added_where_somebody_else_adds_the_noise(tiny_bert_folder: Path, tmp_path: Path) -> None:
    delta = {"a": torch.tensor([3.0, 4.0])}
    for privacy in (CENTRAL, {"unit": "none"}):
        assert released(delta, plan_of(with_privacy(tmp_path, tiny_bert_folder, privacy))) is delta
    assert released(delta, plan_of(private_recipe(tiny_bert_folder, tmp_path))) is delta
