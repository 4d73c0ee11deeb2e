"""Studies end to end on a tiny model: they finish, they resume, their figures do not depend on who computes them."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedtune.cli.main import main
from fedtune.errors import DataError, RunError
from fedtune.recipe import DataSection
from simulations.studies import aggregation
from simulations.studies.cell import ROWS, recipe_of
from simulations.studies.outcome import JOURNAL, Outcome
from simulations.studies.plan import Cell, Plan
from simulations.studies.results import ROUNDING
from simulations.studies.rows import POOL, TEST, TUNING, divide
from simulations.studies.study import carry_out
from simulations.studies.write import PICTURE, SUMMARY, TABLE, write_results
from tests.simulations.study_worlds import RATES, tiny_plan
from tests.worlds import write_rows

Finished = tuple[Plan, Path, dict[Cell, Outcome]]


@pytest.fixture(scope="module")
def finished(tiny_bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("study")
    plan = tiny_plan(tiny_bert_folder, folder)
    return plan, folder / "to", carry_out(plan, folder / "to", lambda *_: None, workers=2).outcomes


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Path:
    """The finished study's folder, to be damaged."""
    return Path(shutil.copytree(finished[1], tmp_path / "to"))


def figures(outcome: Outcome) -> Outcome:
    """Everything but the time that it took."""
    return outcome.model_copy(update={"seconds": 0.0})


def test_every_cell_is_simulated_once_and_nothing_is_left_but_figures(finished: Finished):
    plan, folder, outcomes = finished
    assert len(outcomes) == plan.size() == 6
    assert [cell.stage for cell in outcomes] == ["tuning"] * 4 + ["report"] * 2
    assert all(not o.failure and o.left_out == 0 and len(o.product_errors) == 2 for o in outcomes.values())
    assert not list((folder / "scratch").iterdir())


def test_the_product_error_tells_fed_sb_from_fedit(finished: Finished):
    for cell, outcome in finished[2].items():
        assert (max(outcome.product_errors) < ROUNDING) is (cell.method == "fed-sb")


def test_reported_cells_have_the_rate_that_was_best_on_held_out_rows(finished: Finished):
    outcomes = finished[2]
    for cell in (cell for cell in outcomes if cell.stage == "report"):
        tuning = [o for o in outcomes.values() if o.cell.stage == "tuning" and o.cell.method == cell.method]
        assert cell.lr in RATES
        assert next(o for o in tuning if o.cell.lr == cell.lr).local_accuracy == max(o.local_accuracy for o in tuning)


def test_a_torn_last_line_is_dropped_and_its_cell_done_again_with_the_same_figures(finished: Finished, copy: Path):
    plan, _, before = finished
    content = (copy / JOURNAL).read_bytes()
    last = content.rstrip(b"\n").rpartition(b"\n")[2]
    (copy / JOURNAL).write_bytes(content[: -len(last) // 2])
    told: list[tuple[Outcome, int, int]] = []
    after = carry_out(plan, copy, lambda *heard: told.append(heard), resume=True, workers=1).outcomes
    assert [(outcome.cell, done, of) for outcome, done, of in told] == [(list(before)[-1], 6, 6)]
    assert list(map(figures, after.values())) == list(map(figures, before.values()))


def test_a_finished_study_is_neither_begun_anew_nor_taken_for_another(finished: Finished, copy: Path):
    plan = finished[0]
    with pytest.raises(RunError, match="--resume"):
        carry_out(plan, copy, lambda *_: None)
    with pytest.raises(RunError, match="another study"):
        carry_out(plan.model_copy(update={"seeds": (2,)}), copy, lambda *_: None, resume=True)


def test_a_damaged_line_in_the_middle_is_one_sentence(finished: Finished, copy: Path):
    lines = (copy / JOURNAL).read_bytes().splitlines(keepends=True)
    (copy / JOURNAL).write_bytes(b"".join([lines[0], b"{\n", *lines[2:]]))
    with pytest.raises(RunError, match="line 2 of"):
        carry_out(finished[0], copy, lambda *_: None, resume=True)


def test_table_picture_and_summary_hold_the_figures(finished: Finished, copy: Path):
    plan, _, outcomes = finished
    write_results(plan, outcomes.values(), copy)
    rows = list(csv.DictReader((copy / TABLE).open()))
    assert [(row["method"], row["split"], row["seeds"]) for row in rows] == [
        ("fedit", "iid", "1"),
        ("fed-sb", "iid", "1"),
    ]
    for row, outcome in zip(rows, list(outcomes.values())[-2:], strict=True):
        assert float(row["accuracy_mean"]) == pytest.approx(outcome.accuracy, rel=1e-5)
        assert float(row["product_error_max"]) == pytest.approx(max(outcome.product_errors), rel=1e-5)
        assert float(row["bytes_up"]) == pytest.approx(outcome.bytes_up, rel=1e-5)
        assert row["accuracy_std"] == ""
    assert (copy / PICTURE).read_bytes().startswith(b"\x89PNG")
    text = (copy / SUMMARY).read_text()
    assert "At rounding (below 1e-05) in every round: fed-sb." in text
    assert "Above it, with the largest of any round: fedit (" in text


def test_rows_are_divided_into_two_that_share_nothing_and_the_same_way_each_time(tmp_path: Path):
    from pyarrow import parquet

    section = DataSection(source=str(write_rows(tmp_path / "rows.jsonl", 50)))
    divide(section, 20, tmp_path / "one")
    divide(section, 20, tmp_path / "two")
    pool, test = (parquet.read_table(tmp_path / "one" / name).to_pylist() for name in (POOL, TEST))
    everything = [(row["text"], row["label"]) for row in pool + test]
    assert (len(pool), len(test)) == (30, 20)
    assert sorted(everything) == sorted(
        (row["text"], row["label"])
        for name in (POOL, TEST)
        for row in parquet.read_table(tmp_path / "two" / name).to_pylist()
    )
    assert parquet.read_table(tmp_path / "two" / TEST).to_pylist() == test
    with pytest.raises(DataError, match="50 rows"):
        divide(section, 50, tmp_path / "three")


def test_public_rows_and_test_rows_are_drawn_alike_from_a_table_in_order(tmp_path: Path):
    from pyarrow import parquet

    table = tmp_path / "rows.jsonl"
    table.write_text("".join(f'{{"text": "row {row}", "label": "{row // 100}"}}\n' for row in range(400)))
    divide(DataSection(source=str(table)), 100, tmp_path / "divided", tuning_rows=100)
    read = {name: parquet.read_table(tmp_path / "divided" / name)["text"].to_pylist() for name in (POOL, TUNING, TEST)}
    assert [len(read[name]) for name in (POOL, TUNING, TEST)] == [200, 100, 100]
    assert len({text for texts in read.values() for text in texts}) == 400
    for name in (TUNING, TEST):
        by_label = Counter(int(text.split()[1]) // 100 for text in read[name])
        assert min(by_label[label] for label in range(4)) > 10


def test_a_cell_that_diverges_is_a_figure_and_another_error_ends_the_study(tiny_bert_folder: Path, tmp_path: Path):
    plan = tiny_plan(
        tiny_bert_folder, tmp_path, settings=("federation.max_failed_rounds=1", "training.max_grad_norm=none")
    )
    fedit = plan.contenders["fedit"].model_copy(update={"rates": (1e-2, 1e30)})
    diverging = plan.model_copy(update={"contenders": {"fedit": fedit}})
    outcomes = carry_out(diverging, tmp_path / "to", lambda *_: None, workers=1).outcomes
    assert [(o.cell.lr, bool(o.failure)) for o in outcomes.values()] == [(1e-2, False), (1e30, True), (1e-2, False)]
    nameless = plan.model_copy(update={"base": plan.base.replace(str(tiny_bert_folder), str(tmp_path / "nowhere"))})
    with pytest.raises(RunError, match="nowhere"):
        carry_out(nameless, tmp_path / "no", lambda *_: None, workers=1)


@pytest.mark.parametrize("plan", [aggregation.full(), aggregation.quick()], ids=lambda plan: plan.form)
def test_the_packaged_plans_make_sound_recipes_that_differ_where_they_should(plan: Plan, tmp_path: Path):
    rates = {method: contender.rates[0] for method, contender in plan.contenders.items()}
    cells = [*plan.tuning_cells(), *plan.report_cells(rates)]
    assert len(cells) == len(set(cells)) == len({cell.name for cell in cells}) == plan.size()
    assert plan.tuning_seed not in plan.seeds
    assert plan.tuning_split in plan.splits
    for cell in cells:
        recipe = recipe_of(plan, cell, tmp_path)
        assert (recipe.method, recipe.training.lr, recipe.run.seed) == (cell.method, cell.lr, cell.seed)
        assert recipe.data.test_source == str(tmp_path.resolve() / ROWS / TEST)
        assert plan.test_rows <= (recipe.data.max_rows or 0)


def test_fourteen_methods_are_compared():
    assert len(aggregation.full().contenders) == 14


def test_the_command_runs_prints_and_says_where_things_are(
    tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = tiny_plan(tiny_bert_folder, tmp_path)
    one = {"fed-sb": plan.contenders["fed-sb"].model_copy(update={"rates": (1e-2,)})}
    monkeypatch.setattr(aggregation, "quick", lambda: plan.model_copy(update={"contenders": one}))
    words = ["study", "aggregation", "--quick", "--to", str(tmp_path / "to"), "--workers", "1"]
    result = CliRunner().invoke(main, words, prog_name="fedtune")
    assert result.exit_code == 0, result.output
    assert "fed-sb" in result.stdout
    assert str(tmp_path / "to") in result.stdout
    assert "2/2  report fed-sb, iid, seed 1" in result.stderr
    again = CliRunner().invoke(main, words, prog_name="fedtune")
    assert again.exit_code == 1
    assert "--resume" in again.stderr


def test_help_names_every_option():
    result = CliRunner().invoke(main, ["study", "aggregation", "--help"], prog_name="fedtune")
    assert result.exit_code == 0
    assert all(option in result.stdout for option in ("--quick", "--to", "--resume", "--workers"))
