"""Whatever a file holds, a reader gives a table or one DataError."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedtune.data.files import READERS
from fedtune.data.locate import read_source
from fedtune.errors import DataError

Load = Callable[..., datasets.Dataset]
fuzzed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
rows = st.lists(st.dictionaries(st.sampled_from(["text", "label", "", "a\n"]), values, max_size=4), max_size=5)
pieces = st.sampled_from(['"', ",", "\n", "\r", ";", "\t", "text", "label", "é", "\0", "{", "[", ":", "\u2028"])


def give(path: Path, content: bytes, load: Load) -> None:
    path.write_bytes(content)
    for read in (lambda: read_source(str(path), "train"), lambda: load(path)):
        said = refusal(read)
        assert "\n" not in said, said


def refusal(read: Callable[[], datasets.Dataset]) -> str:
    """The sentence with which reading ended, if it did."""
    try:
        read()
    except DataError as error:
        return str(error)
    return ""


@fuzzed
@given(content=st.binary(max_size=60), suffix=st.sampled_from(sorted(READERS)))
def test_bytes(content: bytes, suffix: str, tmp_path: Path, load: Load) -> None:
    give(tmp_path / f"rows{suffix}", content, load)


@fuzzed
@given(content=st.lists(pieces, max_size=25).map("".join), suffix=st.sampled_from(sorted(READERS)))
@example(content='text,label\n"a\0b",c', suffix=".csv")
def test_text(content: str, suffix: str, tmp_path: Path, load: Load) -> None:
    give(tmp_path / f"rows{suffix}", content.encode(), load)


@fuzzed
@given(content=rows)
@example(content=[{"text": "a", "label": "\ud800"}])
def test_json_of_any_shape(content: list[dict[str, object]], tmp_path: Path, load: Load) -> None:
    give(tmp_path / "rows.json", json.dumps(content).encode(), load)
    give(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, content)).encode(), load)


def test_half_a_character_is_named(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": "b \\ud83d", "label": "y"}\n')
    with pytest.raises(DataError, match="line 2: holds half a character"):
        load(path)
