"""`fedtune init`: writes a recipe that loads, never over a file, and tells what to do next."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedtune.cli.main import main
from fedtune.recipe.load import load_recipe
from tests.cli.conftest import Fedtune


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["init", *args])


@pytest.mark.parametrize("task", ["sequence-classification", "causal-lm", "image-classification"])
def test_what_is_written_loads(tmp_path: Path, task: str) -> None:
    file = tmp_path / "my first recipe.toml"
    assert run(str(file), "--task", task).exit_code == 0
    recipe = load_recipe(str(file))
    assert recipe.model.task == task
    assert recipe.run.name == "my-first-recipe"


def test_model_and_data_are_taken_as_they_are_said(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    assert run(str(file), "--model", "org/model", "--data", 'odd "name".csv').exit_code == 0
    recipe = load_recipe(str(file))
    assert (recipe.model.name, recipe.data.source) == ("org/model", 'odd "name".csv')


def test_a_file_is_overwritten_by_force_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("precious")
    refused = run(str(file))
    assert refused.exit_code == 1
    assert "is there already" in refused.stderr
    assert file.read_text() == "precious"
    assert run(str(file), "--force").exit_code == 0
    assert load_recipe(str(file)).model.name


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    refused = run(str(tmp_path / "no" / "a.toml"))
    assert refused.exit_code == 1
    assert "there is no folder" in refused.stderr


def test_an_unknown_task_is_a_usage_error() -> None:
    refused = run("a.toml", "--task", "poetry")
    assert refused.exit_code == 2
    assert "sequence-classification" in refused.stderr


def test_without_a_name_the_file_is_recipe_toml_and_what_comes_next_works(fedtune: Fedtune, tmp_path: Path) -> None:
    done = fedtune("init")
    assert "fedtune recipe check recipe.toml" in done.stdout
    assert fedtune("recipe", "check", "recipe.toml").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence(fedtune: Fedtune) -> None:
    done = fedtune("init", "/dev/full", "--force")
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
