"""`fedtune recipe`: what a recipe resolves to and why, the ready ones, and a way from a ready one to one's own."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedtune.cli.main import main
from fedtune.recipe.load import load_recipe
from fedtune.recipe.ready import description, ready_recipes


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["recipe", *args])


@pytest.fixture
def mine(tmp_path: Path) -> str:
    file = tmp_path / "mine.toml"
    file.write_text('method = "fedit"\n[model]\nname = "minilm"\n')
    return str(file)


def line_of(shown: Result, key: str) -> str:
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith(f"{key} = ")]
    return line


def test_check_shows_every_value_and_who_gave_it(mine: str) -> None:
    shown = run("check", mine, "--set", "training.lr=2e-3")
    assert shown.exit_code == 0
    assert 'kind = "lora"' in line_of(shown, "kind")
    assert 'method "fedit"' in line_of(shown, "kind")
    assert "--set training.lr=2e-3" in line_of(shown, "lr")
    assert line_of(shown, "rounds").endswith("# default")


def test_check_writes_the_resolved_recipe_as_a_file_that_loads_as_the_same(mine: str, tmp_path: Path) -> None:
    shown = run("check", mine, "--set", "run.seed=3", "--toml")
    assert shown.exit_code == 0
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(shown.stdout, encoding="utf-8")
    assert load_recipe(str(resolved)) == load_recipe(mine, ["run.seed=3"])


def test_check_refuses_with_the_line(mine: str) -> None:
    Path(mine).write_text('[model]\nname = "minilm"\n[adapter]\nrnk = 3\n')
    shown = run("check", mine)
    assert shown.exit_code == 1
    assert shown.stdout == ""
    assert "mine.toml, line 4: adapter.rnk is not a key of [adapter]; did you mean 'rank'?" in shown.stderr


def test_check_gives_advice_on_stderr(mine: str) -> None:
    shown = run("check", mine, "--set", "model.task=causal-lm", "--set", "adapter.head=true")
    assert shown.exit_code == 0
    assert "adapter.head = true has no effect" in shown.stderr


def test_what_check_prints_is_toml_with_the_values_of_the_run() -> None:
    shown = tomllib.loads(run("check", "spam-mails", "--set", "training.epochs=2").stdout)
    recipe = load_recipe("spam-mails", ["training.epochs=2"])
    assert shown["training"]["epochs"] == recipe.training.epochs == 2
    assert shown["training"]["steps"] == "none", "the recipe's own steps gave way"
    assert tuple(shown["model"]["labels"]) == recipe.model.labels


def test_advice_names_the_lines_and_is_no_failure(mine: str) -> None:
    Path(mine).write_text('[model]\nname = "minilm"\nquantization = "nf4"\n[training]\ndevice = "cpu"\n')
    shown = run("check", mine)
    assert shown.exit_code == 0
    assert shown.stderr.startswith("note: mine.toml, lines 3 and 5: ")


def test_list_names_every_ready_recipe_with_its_first_line() -> None:
    shown = run("list")
    assert shown.exit_code == 0
    for name, file in ready_recipes().items():
        assert f"{name} {description(file)}" in " ".join(shown.stdout.split())


def test_show_prints_a_ready_recipe_as_it_is_written() -> None:
    shown = run("show", "two-clients")
    assert shown.stdout == ready_recipes()["two-clients"].read_text(encoding="utf-8")


def test_show_of_an_unknown_name_says_the_nearest() -> None:
    shown = run("show", "two-client")
    assert shown.exit_code == 1
    assert "did you mean 'two-clients'?" in shown.stderr
