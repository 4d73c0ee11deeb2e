"""The table of the catalogue, its cache folders and the command that fetches from it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedtune.catalogue import ENTRIES, find, locate, names
from fedtune.catalogue.cache import cache_folder
from fedtune.cli.fetch import fetch
from fedtune.errors import DataError, ModelError


def test_names_and_folders_are_unique_and_pins_are_whole() -> None:
    assert len({entry.name for entry in ENTRIES}) == len({entry.folder for entry in ENTRIES}) == len(ENTRIES)
    assert all(re.fullmatch(r"[0-9a-f]{64}", entry.sha256) for entry in ENTRIES)


@pytest.mark.parametrize("name", names())
def test_every_converter_exists(name: str) -> None:
    assert callable(find(name).converter())


def test_listing_the_catalogue_imports_nothing_heavy() -> None:
    heavy = "[m for m in ('torch', 'transformers', 'pyarrow', 'datasets', 'onnx', 'gguf') if m in sys.modules]"
    command = f"import sys, fedtune.cli.fetch; print({heavy})"
    printed = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_a_typing_mistake_is_met_with_the_name_that_was_meant() -> None:
    with pytest.raises(ModelError, match=r"no model called 'minillm': did you mean minilm\?"):
        find("minillm", "model")
    with pytest.raises(DataError, match=r"did you mean tweets\?"):
        find("tweet", "data")
    with pytest.raises(DataError, match=r"the catalogue has movie-reviews, .*trivia\."):
        find("xyzzy", "data")


def test_a_name_of_the_other_kind_is_not_found() -> None:
    with pytest.raises(DataError, match="no data called 'minilm'"):
        find("minilm", "data")


def test_what_was_not_fetched_names_the_command(cache: Path) -> None:
    with pytest.raises(ModelError, match="run `fedtune fetch minilm`"):
        locate("minilm")
    with pytest.raises(DataError, match="run `fedtune fetch tweets`"):
        locate("tweets", "data")


def test_what_was_fetched_is_located_without_a_network(cache: Path) -> None:
    (cache / "model" / find("minilm").folder).mkdir(parents=True)
    assert locate("minilm", "model") == cache / "model" / find("minilm").folder


def test_the_cache_follows_the_platform_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDTUNE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == Path("/xdg/fedtune")
    monkeypatch.setenv("FEDTUNE_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"


def test_the_list_shows_every_entry_with_its_licence(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    printed = CliRunner().invoke(fetch, ["--list"]).output
    for entry in ENTRIES:
        assert entry.name in printed
        assert entry.licence in printed
    assert "542 MB" in printed


def test_fetch_without_names_says_what_to_do() -> None:
    result = CliRunner().invoke(fetch, [])
    assert result.exit_code == 2
    assert "--list" in result.output


def test_one_unknown_name_stops_before_anything_is_fetched(cache: Path) -> None:
    result = CliRunner().invoke(fetch, ["tweets", "no-such-thing"])
    assert isinstance(result.exception, ModelError)
    assert not cache.exists()


def test_help_shows_an_example() -> None:
    assert "fedtune fetch minilm movie-reviews" in CliRunner().invoke(fetch, ["--help"]).output


def test_what_is_ready_is_reported_at_once(cache: Path) -> None:
    folder = cache / "model" / find("minilm").folder
    folder.mkdir(parents=True)
    result = CliRunner().invoke(fetch, ["minilm"])
    assert result.exit_code == 0
    assert "ready" in result.output
