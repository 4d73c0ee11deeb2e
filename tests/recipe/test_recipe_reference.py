"""The documentation of the recipe says what the sections declare."""

import re
from pathlib import Path

from fedtune.recipe.keys import dotted, field_at, leaf_keys
from fedtune.recipe.load import parse_recipe
from fedtune.recipe.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


def test_the_page_ends_with_a_fresh_reference() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith(reference()), (
        "docs/recipe.md is stale: replace its last part by the output of `python -m fedtune.recipe.reference`"
    )


def test_every_key_has_a_row_and_an_explanation() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+? \| (.+) \|$", reference(), flags=re.MULTILINE)
    assert len(rows) >= len(list(leaf_keys()))
    for path in leaf_keys():
        field = field_at(path)
        assert field is not None
        assert field.description, dotted(path)


def test_the_example_of_the_page_is_a_recipe() -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert example is not None
    assert parse_recipe(example[1]).recipe.federation.clients_per_round == 10
