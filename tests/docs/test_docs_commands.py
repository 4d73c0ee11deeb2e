"""Every command line in the README and the docs is one that the real command line takes."""

import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise

import pytest

from fedtune.recipe.load import load_recipe
from fedtune.recipe.ready import ready_recipes
from tests.command_lines import complaint, options, split
from tests.docs.pages import ROOT, Page, pages

ALL = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)


def commands(page: Page, program: str) -> Iterator[list[str]]:
    """The words behind `program` in each of a page's shell lines that call it, wherever it lies."""
    for line in page.shell_lines():
        yield from (words[1:] for words in split(line) if words and words[0].rpartition("/")[2] == program)


@ALL
def test_command_lines_parse(page: Page) -> None:
    wrong = {" ".join(words): said for words in commands(page, "fedtune") if (said := complaint(words))}
    assert not wrong


@ALL
def test_commands_that_the_text_names_exist(page: Page) -> None:
    named = [code for code in page.inline_code() if code.startswith("fedtune ") and "…" not in code]
    wrong = {code: said for code in named for words in split(code) if (said := complaint(words[1:], whole=False))}
    assert not wrong


@ALL
def test_options_that_the_text_names_exist(page: Page) -> None:
    named = {code.split()[0] for code in page.inline_code() if code.startswith("--")}
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").rglob("*.py"))
    assert {option for option in named - options() if f'"{option}"' not in scripts} == set()


@ALL
def test_overrides_fit_the_ready_recipe_that_they_change(page: Page) -> None:
    for words in commands(page, "fedtune"):
        recipe = next((word for word in words if word in ready_recipes()), None)
        overrides = [value for option, value in pairwise(words) if option == "--set"]
        if recipe and overrides and words[0] in {"simulate", "coordinator"}:
            load_recipe(recipe, overrides)


@ALL
def test_make_targets_modules_and_extras_exist(page: Page) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {words[0] for words in commands(page, "make")} <= targets
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = re.findall(r"(?:fedtune|\.)\[([a-z,]+)\]", page.text)
    assert {extra for names in named for extra in names.split(",")} <= extras


@ALL
def test_scripts_exist_and_have_the_options_that_they_are_called_with(page: Page) -> None:
    for words in commands(page, "python"):
        if words[0] == "-m":
            continue
        source = (ROOT / words[0]).read_text(encoding="utf-8")
        assert [option for option in words if option.startswith("--") and f'"{option}"' not in source] == []


def test_the_commands_of_the_program_are_all_in_the_readme() -> None:
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["fedtune.commands"]
    readme = next(page for page in pages() if page.name == "README.md")
    table = {code.split()[1] for code in readme.inline_code() if code.startswith("fedtune ") and len(code.split()) > 1}
    assert entries.keys() <= table


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fedtune simulat movie-reviews", "no command"),
        ("fedtune simulate movie-reviews --sett a=b", "No such option"),
        ("fedtune keys init keys --hosts x", "No such option"),
        ("fedtune keys ad x", "No such command"),
        ("fedtune coordinator my.toml --port seven", "not a valid integer"),
        ("fedtune client --coordinator a:1", "Missing option"),
        ("FEDTUNE_CACHE=/x fedtune recipe show a b > my.toml", "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_would_be_noticed(line: str, said: str) -> None:
    assert said in complaint(split(line)[0][1:])
