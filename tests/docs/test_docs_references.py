"""What the docs point at is there: files, tests, links, keys of a recipe; and nothing points out of the repository."""

import re
import subprocess
from pathlib import Path

import pytest

from fedtune.recipe import Recipe
from tests.docs.pages import ROOT, Page, pages

ALL = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
FOLDERS = ("fedtune", "server", "client", "protos", "simulations", "deploy", "tests", "benchmarks", "docs")
FILE = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./@-]*")
SECTIONS = tuple(Recipe.model_fields)
KEY = re.compile(rf"(?:{'|'.join(SECTIONS)})(?:\.[a-z_]+)+")
NO_KEYS = (".json", ".toml", ".jsonl", ".safetensors", ".py", ".html", ".md")


@ALL
def test_files_and_tests_that_are_named_exist(page: Page) -> None:
    missing, last = [], ""
    for code in page.inline_code():
        path, _, test = code.partition("::")
        path = last if path == "…" else path
        if not FILE.fullmatch(path) or "your" in path:
            continue
        last = path
        if not (ROOT / path).exists() or (test and f"def {test}(" not in (ROOT / path).read_text(encoding="utf-8")):
            missing.append(code)
    assert not missing


@ALL
def test_links_resolve(page: Page) -> None:
    broken = [link for link in page.links() if not link.startswith("https://") and not _resolves(page, link)]
    assert not broken


def _resolves(page: Page, link: str) -> bool:
    target, _, anchor = link.partition("#")
    path = (page.path.parent / target).resolve() if target else page.path
    if not path.exists() or (page.name.startswith("docs/") and not path.is_relative_to(ROOT / "docs")):
        return False
    other = next((known for known in pages() if known.path == path), None)
    return not anchor or (other is not None and anchor in other.anchors())


@ALL
def test_recipe_keys_that_are_named_exist(page: Page) -> None:
    named = [found for code in page.inline_code() for found in [code.split(" = ")[0]] if KEY.fullmatch(found)]
    unknown = [key for key in named if not key.endswith(NO_KEYS) and not _is_key(key)]
    assert not unknown


def _is_key(key: str) -> bool:
    model = Recipe
    *sections, last = key.split(".")
    for name in sections:
        field = model.model_fields.get(name)
        if field is None or not hasattr(field.annotation, "model_fields"):
            return False
        model = field.annotation  # type: ignore[assignment]
    return last in model.model_fields


def test_keys_are_told_from_what_is_none() -> None:
    assert _is_key("training.lr")
    assert _is_key("data.partition.alpha")
    assert not _is_key("training.learning_rate")
    assert not _is_key("data.partitions.alpha")


def test_every_page_is_in_the_navigation_and_the_other_way_round() -> None:
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert named == {page.path.relative_to(ROOT / "docs").as_posix() for page in pages() if page.name[:5] == "docs/"}


# Written in halves, so that this file does not hold what it looks for.
HALVES = [("/wo", "rk/"), (r"\.\./sha", "red"), ("/ro", "ot/"), ("/tm", "p/brief"), ("issu", "es show")]
FOREIGN = re.compile("|".join(first + second for first, second in HALVES))


def test_nothing_names_the_machine_that_it_was_written_on() -> None:
    found = []
    for path in _tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in FOREIGN.finditer(text)]
    assert not found


def _tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    found = [ROOT / name for name in names if name] or [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts
    ]
    return [path for path in found if path.is_file()]
