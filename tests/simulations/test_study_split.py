"""The study of split learning end to end on tiny models, its packaged recipes, and what it says of the claims."""

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedtune.cli.main import main
from fedtune.errors import RunError
from fedtune.split.crossing import Ways
from simulations.studies import split, split_costs, split_peak
from simulations.studies.cell import recipe_of
from simulations.studies.plan import Contender, Plan
from simulations.studies.split_claims import claims, published_claims
from simulations.studies.split_costs import Cost, published
from simulations.studies.split_picture import draw_split
from simulations.studies.split_rows import SplitRow, split_rows
from simulations.studies.split_words import World, split_summary
from tests.simulations.study_worlds import outcome, tiny_plan
from tests.split.split_models import folder as tiny_of

ROWS = 96
LABELS = ("negative", "positive")
on_linux = pytest.mark.skipif(not split_peak.PROCESS.exists(), reason="reads /proc")
SHORT = ("federation.rounds=1",)
DROPPED = (
    "[aggregation]", "diagnose = true", "holdout_fraction = 0.25", "rank = 4", "steps = 3", 'targets = "attention"'
)  # fmt: skip
"""Lines of the tiny base that this study has no use for."""


def toy_names() -> list[str]:
    """In the order of the table."""
    return [split.FULL, split.LORA, split.LINEAR, split.SPLIT_LORA, split.SFPROMPT]


def toy(folder: Path) -> Plan:
    """Five contenders of one rate over a four-layer BERT; three clients hold 16 rows of one length."""
    like = {"rates": (), "rate_of": split.FULL}
    contenders = {name: split.CONTENDERS[name].model_copy(update=like) for name in toy_names()}
    contenders[split.FULL] = split.CONTENDERS[split.FULL].model_copy(update={"rates": (1e-2,)})
    plan = tiny_plan(tiny_of("bert"), folder, contenders=contenders, test_rows=30, tuning_rows=18, settings=SHORT)
    rows = folder / "rows.jsonl"
    texts = ((f"the film is {'good warm' if n % 2 else 'bad dull'}", n % 2) for n in range(ROWS))
    rows.write_text("".join(json.dumps({"text": t, "label": LABELS[label]}) + "\n" for t, label in texts))
    base = plan.base
    for line in DROPPED:
        base = base.replace(line, "")
    return plan.model_copy(update={"base": base})


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The command's output and folder, of one world."""
    folder = tmp_path_factory.mktemp("split")
    plan = toy(folder)
    words = ["study", "split", "--quick", "--to", str(folder / "to"), "--workers", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "quick", lambda: {"texts": plan})
        patch.setattr(split_costs, "peaks_of", lambda recipes, _: dict.fromkeys(recipes, 7.0))
        return CliRunner().invoke(main, words, prog_name="fedtune"), folder / "to"


def test_the_command_writes_table_picture_and_reading(studied: tuple[Result, Path]):
    result, folder = studied
    assert result.exit_code == 0, result.output
    assert "splitfed-linear" in result.stdout
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert list(rows[0]) == list(SplitRow.__dataclass_fields__)
    assert [row["contender"] for row in rows] == list(toy_names())
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "texts" / "cells.jsonl").exists()
    text = (folder / "summary.md").read_text()
    assert "53 % fewer bytes" in text
    assert "## texts" in text
    assert "a copy of the body for each client" in text


def test_bytes_that_are_measured_are_those_of_the_plan(studied: tuple[Result, Path]):
    for row in csv.DictReader((studied[1] / "results.csv").open()):
        body = float(row["body_up"]) + float(row["body_down"])
        assert body == pytest.approx(float(row["planned_body"]), rel=0.01), row["contender"]
        assert (body > 0) == row["contender"].startswith("s")


def test_work_is_counted_by_contender(studied: tuple[Result, Path]):
    rows = {row["contender"]: row for row in csv.DictReader((studied[1] / "results.csv").open())}
    assert [rows[name]["passes"] for name in toy_names()] == ["16", "16", "16", "16", "8"]
    assert [rows[name]["alone"] for name in toy_names()] == ["0", "0", "0", "0", "32"]  # 16 to train, 16 to score
    assert float(rows[split.FULL]["flops_share"]) == float(rows[split.FULL]["bytes_share"]) == 1
    flops = {name: float(rows[name]["flops"]) for name in toy_names()}
    assert min(flops, key=flops.__getitem__) == split.LINEAR  # in a toy, rank 8 and 5 soft prompts are no small part
    assert {row["memory_measured"] for row in rows.values()} == {"7"}
    assert rows[split.FULL]["even_full"] == rows[split.FULL]["body_up"].strip("0.") == ""


@on_linux
def test_a_client_whose_memory_is_measured_trains_without_a_body(studied: tuple[Result, Path]):
    folder = studied[1] / "texts"
    plan = Plan.model_validate_json((folder / "plan.json").read_bytes())
    cell = next(
        cell for cell in plan.report_cells(dict.fromkeys(plan.contenders, 1e-2)) if cell.method == split.SFPROMPT
    )
    assert split_peak.train_one(recipe_of(plan, cell, folder)) >= 0


@pytest.mark.parametrize("plans", [split.full, split.quick], ids=lambda plans: plans.__name__)
def test_every_cell_is_a_sound_recipe_that_is_what_its_name_says(plans, tmp_path: Path):
    assert list(plans()) == ["digits", "reviews"]
    for plan in plans().values():
        rates = {name: plan.grid(name)[0] for name in plan.contenders}
        cells = [*plan.tuning_cells(), *plan.report_cells(rates)]
        assert len(cells) == len({cell.name for cell in cells}) == plan.size()
        assert plan.tuning_seed not in plan.seeds
        for cell in cells:
            recipe = recipe_of(plan, cell, tmp_path)
            parts = recipe.split
            assert recipe.data.max_rows >= plan.test_rows
            assert recipe.training.steps is None  # else pruning would not save a pass
            assert parts.active == cell.method.startswith("s")
            assert (recipe.adapter.kind == "full") == (cell.method not in (split.LORA, split.SPLIT_LORA))
            bodies = {split.WHOLE_SPLIT: "full", split.SPLIT_LORA: "lora"}
            assert parts.body == bodies.get(cell.method, "frozen")
            assert parts.train_head == (cell.method in bodies)
            if cell.method.startswith(split.SFPROMPT):
                assert bool(parts.prompt_tokens) == ("no-prompt" not in cell.method)
                assert bool(parts.local_epochs) == ("no-local" not in cell.method)
                assert (parts.keep < 1) == ("all-rows" not in cell.method)
            elif parts.active:
                assert (parts.prompt_tokens, parts.local_epochs, parts.keep) == (0, 0, 1.0)
                assert parts.tail_layers == (cell.method != "splitfed-linear")
                assert (recipe.training.head_lr is None) == (cell.method == "splitfed-linear")


def test_the_published_setting_by_formula():
    """2.48 MB a pass and 86 million weights; a share of 2 of 12 layers, and one of patches and head alone."""
    found = published()
    assert found.row == 4 * 202 * 768 * 4
    assert found.even_full == pytest.approx((8 * 85.8e6 - 8 * 7.1e6) / found.row, rel=0.01)
    assert found.saves_as_much < found.even_full / 2
    assert found.share > 2 / 12
    assert 0.003 < found.least_share < 0.01
    assert f"even at {found.even_full:,.0f} passes" in published_claims()


COSTS = {
    split.FULL: Cost(1e9, 1e8, 100, 0, Ways(1e6, 1e6)),
    split.LORA: Cost(6e8, 5e7, 100, 0, Ways(1e4, 1e4)),
    split.SFPROMPT: Cost(3e6, 1e7, 50, 200, Ways(1e5, 1e5), Ways(2e5, 2e5)),
}
PLAN = Plan(
    form="tiny", base="", test_rows=10, contenders={n: Contender(settings=(), rates=(1e-2,)) for n in COSTS},
    splits={"iid": ()}, seeds=(1, 2), tuning_split="iid", tuning_seed=9,
)  # fmt: skip


def world(**sfprompt: float) -> World:
    """Outcomes by hand: full fine-tuning sends 2 MB, LoRA 20 kB, SFPrompt 600 kB or what is said."""
    figures = {
        split.FULL: {"bytes_up": 1e6, "bytes_down": 1e6},
        split.LORA: {"bytes_up": 1e4, "bytes_down": 1e4},
        split.SFPROMPT: {"bytes_up": 1e5, "bytes_down": 1e5, "body_up": 2e5, "body_down": 2e5, **sfprompt},
    }
    known = [
        outcome(name, seed=seed, accuracy=0.5 + 0.1 * seed, **found)
        for name, found in figures.items()
        for seed in (1, 2)
    ]
    return World("hand", PLAN, known, split_rows("hand", PLAN, known, COSTS))


def test_rows_by_hand():
    full, lora, one = world().rows
    assert (one.both, one.bytes_share, one.flops_share) == (6e5, 0.3, 0.003)
    assert one.even_full == pytest.approx((2e6 - 2e5) / 8e3)
    assert one.even_lora is None  # what it trains is larger than LoRA
    assert (full.even_full, lora.both) == (None, 2e4)
    assert one.accuracy_mean == pytest.approx(0.65)


def test_claims_hold_where_the_figures_say_so():
    compute, sent, lora = claims(world().rows)
    assert "holds here" in compute
    assert "holds here" in sent
    assert "70.0 % fewer" in sent
    assert "even at 225 sample passes" in sent
    assert "30 times the bytes" in lora
    more = list(claims(world(body_up=4e6).rows))
    assert "does not hold here" in more[1]
    assert "more bytes" in more[1]


def test_a_contender_that_never_ended_is_in_table_and_reading_without_figures():
    known = [o for o in world().outcomes if o.cell.method != split.SFPROMPT]
    known.append(outcome(split.SFPROMPT, failure="the loss is not finite"))
    lost = World("hand", PLAN, known, split_rows("hand", PLAN, known, COSTS))
    assert lost.rows[2].both is None
    assert "(1 failed)" in split_summary([lost])
    assert draw_split([lost]).startswith(b"\x89PNG")


@on_linux
def test_memory_is_measured_once_and_a_client_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = PLAN.model_copy(update={"base": '[model]\nname = "nowhere"\nlabels = ["a", "b"]'})
    cell = next(cell for cell in plan.tuning_cells() if cell.method == split.SFPROMPT)
    recipe = recipe_of(plan, cell, tmp_path)
    monkeypatch.setattr(split_peak.sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="one: its memory could not be measured"):
        split_peak.peaks_of({"one": recipe}, tmp_path)
    monkeypatch.setattr(split_peak, "_measure", lambda name, _: float(len(name)))
    assert split_peak.peaks_of({"one": recipe, "other": recipe}, tmp_path) == {"one": 3, "other": 5}
    monkeypatch.setattr(split_peak, "_measure", None)
    assert split_peak.peaks_of({"other": recipe}, tmp_path)["other"] == 5


def test_help_names_every_option():
    result = CliRunner().invoke(main, ["study", "split", "--help"], prog_name="fedtune")
    assert result.exit_code == 0
    assert all(option in result.stdout for option in ("--quick", "--to", "--resume", "--workers"))
