"""The plan: known break-even points from a config alone, the sweep, the recommendation, and the command."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import ViTConfig

from fedtune.cli.split import split
from fedtune.errors import ModelError
from fedtune.recipe import ModelSection, Recipe
from fedtune.split.crossing import Crossing, Ways, break_even
from fedtune.split.cut import Cut
from fedtune.split.outline import outline_of
from fedtune.split.plan import SplitPlan, plan_split
from fedtune.split.recommend import recommend
from fedtune.split.work import work_of
from tests.split.split_models import LAYERS, section


@pytest.fixture(scope="module")
def vit_b16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of ViT-B/16 at 224 pixels, and not a single weight."""
    folder = tmp_path_factory.mktemp("vit-b16")
    ViTConfig().save_pretrained(folder)
    return folder


def of_vit(folder: Path, **sections: dict[str, object]) -> Recipe:
    model = {"name": str(folder), "task": "image-classification", "image_size": 224, "labels": ("a", "b")}
    return Recipe.model_validate({"model": model, "adapter": {"kind": "full"}} | sections)


@pytest.fixture(scope="module")
def plan(vit_b16: Path) -> SplitPlan:
    """Of ViT-B/16 with five prompt tokens."""
    return plan_split(of_vit(vit_b16, split={"head_layers": 1, "prompt_tokens": 5}), rows=100)


def test_vit_b16_breaks_even_with_full_fine_tuning_at_277_sample_passes(vit_b16, plan):
    """4 tensors of 202 tokens of 768 numbers of 4 bytes a row, against 86 million weights both ways."""
    recipe = of_vit(vit_b16, split={"head_layers": 1, "prompt_tokens": 5})
    outline = outline_of(recipe.model)
    row = Crossing.of(recipe.split, Cut(1, 10, 1), outline.family, outline.tokens(recipe.model))
    assert row.bytes(recipe.split, 768).both == 4 * 202 * 768 * 4 == 2_482_176
    assert plan.tokens == 202
    assert plan.full.update.both == 8 * plan.full.trained == pytest.approx(688e6, rel=0.005)
    even = break_even(plan.full.update, Ways(0, 0), row.bytes(recipe.split, 768))
    assert even == pytest.approx(277, abs=1)


def test_what_is_trained_is_sent_too_and_comes_off_the_break_even_point(plan):
    cost = next(c for c in plan.cuts if c.cut == plan.wanted)
    assert cost.round.both == pytest.approx(2_482_176 * 100 + 8 * cost.trained)
    assert cost.even_full == pytest.approx((8 * plan.full.trained - 8 * cost.trained) / 2_482_176)
    assert cost.even_full < 277


def test_every_head_and_every_tail_is_planned_once(plan):
    cuts = [(c.cut.head, c.cut.tail) for c in plan.cuts]
    assert len(cuts) == len(set(cuts)) == 12 - 1 + 12 - 1 - 1
    assert {head for head, tail in cuts if tail == 1} == set(range(11))
    assert {tail for head, tail in cuts if head == 1} == set(range(11))
    assert all(c.cut.body >= 1 and c.cut.whole == 12 for c in plan.cuts)


def test_the_recommended_cut_fits_and_none_that_fits_sends_less(plan):
    limit = 600e6
    best = recommend(plan, tail=1, limit=limit).cut
    fitting = [c for c in plan.cuts if c.cut.tail == 1 and c.memory.total <= limit and c.cut.head]
    assert best in fitting
    assert best.round.both == min(c.round.both for c in fitting)
    assert recommend(plan, tail=1, limit=2 * limit).cut.cut.head >= best.cut.head


def test_where_nothing_fits_the_smallest_is_named_and_the_reason_says_so(plan):
    found = recommend(plan, tail=1, limit=1.0)
    assert found.cut.memory.total == min(c.memory.total for c in plan.cuts if c.cut.tail == 1 and c.cut.head)
    assert "no client fits into 1 B" in found.reason


def test_a_split_that_sends_more_says_so(vit_b16):
    costly = plan_split(of_vit(vit_b16, split={"head_layers": 1}), rows=10_000)
    said = " ".join(recommend(costly, tail=1).warnings)
    assert "times what federated full fine-tuning would" in said
    assert "not private" in said


def test_a_codec_and_the_first_token_alone_make_a_step_smaller(vit_b16):
    def step(**more: object) -> Ways:
        recipe = of_vit(vit_b16, split={"head_layers": 1} | more)
        return next(c.step for c in plan_split(recipe, rows=10).cuts if (c.cut.head, c.cut.tail) == (1, 0))

    plain = step(prompt_tokens=5)
    assert plain == Ways(8 * (202 + 1) * 3072, 8 * (1 + 202) * 3072)
    assert step(prompt_tokens=5, prompt_at="cut").down == 8 * (1 + 5) * 3072
    assert step() == Ways(8 * 197 * 3072, 8 * 1 * 3072), "no gradient crosses where nothing is trained before the cut"
    assert step(prompt_tokens=5, activations="int8").up == 8 * 203 * (768 + 4)


def test_the_work_of_a_round_is_that_of_its_phases(vit_b16):
    recipe = of_vit(vit_b16, split={"head_layers": 1, "keep": 0.3, "local_epochs": 2}, training={"epochs": 4})
    work = work_of(recipe, 11)
    assert (work.local, work.scored, work.passes, work.federated_passes) == (22, 11, 4 * 4, 4 * 11)
    assert work.split_flops(10, 20) == (22 + 16) * 30 + 11 * 10


def test_the_client_of_a_flat_cut_computes_less_than_full_fine_tuning(plan):
    first = next(c for c in plan.cuts if (c.cut.head, c.cut.tail) == (0, 1))
    assert 0 < first.flops < plan.full.flops / 5


def test_a_model_without_a_config_or_of_another_family_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        outline_of(ModelSection(name=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ModelError, match="cannot be split"):
        outline_of(ModelSection(name=str(tmp_path)))


def test_the_command_prints_every_cut_and_the_same_as_json(tmp_path):
    model = section("bert")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'[model]\nname = "{model.name}"\nlabels = ["a", "b"]\n[split]\nhead_layers = 1\n')
    shown = CliRunner().invoke(split, ["plan", str(recipe), "--rows", "40", "--memory", "500"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0, shown.output
    assert all(f"{head}+{LAYERS - 1 - head}+1" in shown.output for head in range(LAYERS - 1))
    assert "recommended: split.head_layers" in shown.output
    told = CliRunner().invoke(split, ["plan", str(recipe), "--rows", "40", "--json"])
    fields = json.loads(told.output)
    assert fields["work"]["rows"] == 40
    assert fields["wanted"] == {"head": 1, "body": 2, "tail": 1}
    assert fields["recommended"]["cut"] in [cost["cut"] for cost in fields["cuts"]]
