"""Where a model's name leads: catalogue, package, folder or the Hub's cache, and never further than it must."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from fedtune import catalogue
from fedtune.errors import ModelError
from fedtune.models import load_model
from fedtune.models.source import find_model
from fedtune.recipe import ModelSection


@pytest.fixture
def package(tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package `toy_encoder` whose import fails, with a model inside."""
    root = tmp_path / "site" / "toy_encoder"
    root.mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('its code was run')\n")
    shutil.copytree(tiny_bert_folder, root / "weights" / "v1")
    (root / "config.json").write_text('{"something": "else"}')
    monkeypatch.syspath_prepend(root.parent)
    return root


@pytest.fixture
def hub_cache(tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache that holds `someone/tiny` at revision `main`, laid out as huggingface_hub does."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    commit = "0" * 40
    shutil.copytree(tiny_bert_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


def test_a_package_gives_its_folder_and_none_of_its_code_runs(package: Path) -> None:
    assert find_model("package:toy_encoder").folder == package / "weights" / "v1"
    assert find_model("package:toy-encoder").name == "package:toy-encoder"


def test_a_package_with_several_models_asks_which(package: Path) -> None:
    shutil.copytree(package / "weights" / "v1", package / "weights" / "v2")
    with pytest.raises(ModelError, match=r"holds 2 .* say which one: package:toy_encoder/weights/v1, "):
        find_model("package:toy_encoder")
    assert find_model("package:toy_encoder/weights/v2").folder == package / "weights" / "v2"


@pytest.mark.parametrize("name", ["package:no_such_package", "package:", "package:..", "package:json.decoder"])
def test_a_package_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelError, match=r"no package .* is installed"):
        find_model(name)


def test_a_package_without_a_model(package: Path) -> None:
    shutil.rmtree(package / "weights")
    with pytest.raises(ModelError, match="holds 0 Hugging Face folders"):
        find_model("package:toy_encoder")


def test_a_catalogue_name_wins_over_a_folder_of_that_name(
    tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bert_folder, tmp_path / "minilm")
    with pytest.raises(ModelError, match="run `fedtune fetch minilm`"):
        find_model("minilm")
    assert find_model("./minilm").folder == Path("minilm")
    shutil.copytree(tiny_bert_folder, tmp_path / "cache" / "model" / catalogue.find("minilm").folder)
    assert find_model("minilm").name == "minilm"


def test_a_folder_below_the_working_directory_needs_no_dot(
    tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bert_folder, tmp_path / "models" / "mine")
    assert find_model("models/mine").folder == Path("models/mine")


def test_a_hub_model_that_is_cached_loads_offline(hub_cache: Path) -> None:
    section = ModelSection(name="someone/tiny", labels=("a", "b"))
    loaded = load_model(section, device=torch.device("cpu"), seed=0)
    assert loaded.source == "someone/tiny"


def test_a_hub_model_that_is_not_cached_is_one_sentence(hub_cache: Path) -> None:
    with pytest.raises(ModelError, match=r"'minillm', and it could not be had from the Hub .*did you mean minilm"):
        find_model("minillm")


def test_a_revision_that_is_not_cached_is_named(hub_cache: Path) -> None:
    with pytest.raises(ModelError, match="revision v9"):
        find_model("someone/tiny", "v9")
