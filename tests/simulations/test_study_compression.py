"""The study of compression end to end on a tiny model, and the recipes of its packaged forms."""

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedtune.cli.main import main
from simulations.studies import compression
from simulations.studies.cell import recipe_of
from simulations.studies.plan import Contender, Plan
from simulations.studies.traffic import Traffic
from simulations.studies.traffic_picture import GOAL
from tests.simulations.study_worlds import tiny_plan

TERNARY = ('compression.upload=["ternary", "entropy"]', "compression.density=0.1")


def toy(model: Path, folder: Path) -> Plan:
    """Two methods, one of them under a codec, over two scored rounds."""
    contenders = {
        compression.BASELINE: Contender(method="fedit", settings=("adapter.rank=32",), rates=(1e-2,)),
        "fedit-sparse": Contender(
            method="fedit", settings=("adapter.rank=32", *TERNARY), rate_of=compression.BASELINE
        ),
        "fed-sb-sparse": Contender(method="fed-sb", settings=("adapter.rank=8", *TERNARY), rates=(3e-2,)),
    }  # fmt: skip
    return tiny_plan(model, folder, contenders=contenders, settings=("federation.evaluate_every=1",))


def test_the_command_measures_bytes_and_writes_table_picture_and_reading(
    tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = toy(tiny_bert_folder, tmp_path)
    monkeypatch.setattr(compression, "quick", lambda: plan)
    words = ["study", "compression", "--quick", "--to", str(tmp_path / "to"), "--workers", "1"]
    result = CliRunner().invoke(main, words, prog_name="fedtune")
    assert result.exit_code == 0, result.output
    assert "fed-sb-sparse" in result.stdout
    assert "5/5  report fed-sb-sparse, iid, seed 1, rate 0.03" in result.stderr
    base, sparse, square = csv.DictReader((tmp_path / "to" / "results.csv").open())
    assert list(base) == list(Traffic.__dataclass_fields__)
    assert float(base["times_fewer"]) == 1
    assert float(sparse["times_fewer"]) == pytest.approx(float(base["bytes_up"]) / float(sparse["bytes_up"]), rel=1e-4)
    assert 5 < float(sparse["times_fewer"]) < float(square["times_fewer"])
    assert sparse["lr"] == base["lr"] == "0.01"
    assert base["rounds_to_target"] in ("1", "2")
    assert (tmp_path / "to" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "## Goals" in (tmp_path / "to" / "summary.md").read_text()
    again = CliRunner().invoke(main, words, prog_name="fedtune")
    assert again.exit_code == 1
    assert "--resume" in again.stderr
    more = CliRunner().invoke(main, [*words, "--resume"], prog_name="fedtune")
    assert (more.exit_code, more.stdout) == (0, result.stdout)


@pytest.mark.parametrize("plan", [compression.full(), compression.quick()], ids=lambda plan: plan.form)
def test_the_packaged_plans_make_sound_recipes_that_are_what_their_names_say(plan: Plan, tmp_path: Path):
    rates = {name: plan.contenders[contender.rate_of or name].rates[0] for name, contender in plan.contenders.items()}
    cells = [*plan.tuning_cells(), *plan.report_cells(rates)]
    assert len(cells) == len({cell.name for cell in cells}) == plan.size()
    assert plan.tuning_seed not in plan.seeds
    assert compression.BASELINE in plan.contenders
    for cell in cells:
        recipe = recipe_of(plan, cell, tmp_path)
        words = cell.method.removeprefix(f"{recipe.method}-").split("-")
        assert recipe.adapter.rank == int(words[0].removeprefix("r"))
        assert words[1] in (*recipe.compression.upload, "fp32")
        assert recipe.federation.evaluate_every
        if words[1] == "ternary":
            assert recipe.compression.density == int(words[2]) / 100
            assert recipe.compression.feedback == {"": "auto", "alone": "none", "ef21": "ef21"}["".join(words[3:])]


def test_densities_from_one_to_fifty_per_cent_with_and_without_feedback():
    names = compression.full().contenders
    for density in (1, 5, 20, 50):
        assert {f"fedit-r32-ternary-{density}", f"fed-sb-r32-ternary-{density}"} <= names.keys()
    for density in (5, 20):
        assert {f"fedit-r32-ternary-{density}-alone", f"fed-sb-r32-ternary-{density}-alone"} <= names.keys()
    assert GOAL == 1000


def test_help_names_every_option():
    result = CliRunner().invoke(main, ["study", "compression", "--help"], prog_name="fedtune")
    assert result.exit_code == 0
    assert all(option in result.stdout for option in ("--quick", "--to", "--resume", "--workers"))
