"""The line index: every key that `tomllib` reads is found, on the line on which it stands."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtune.recipe.lines import Path, index_lines

TEXT = """\
# a comment with [brackets] and key = 1
method = "fed-sb"   # not = a key

[model]
name = 'min#ilm'
labels = [
  "a",   # first, with ] and "
  "b]",

  "c",
]
"quoted.key" = 1

[data]
partition.scheme = "iid"
partition.clients = 3
text = \"\"\"
[training]
lr = 5 \\\"\"\" \"\"\"\"\"
inline = {x = 1, y = {z = [1, {w = 2}]}}

[ adapter . "in ner" ]
a=1
b = 1979-05-27 07:32:00Z # a date with a space
[[many]]
k = 1
[[many]]
k = 2
[many.below]
deep = ''' '' '''''
"""

LINES = {
    ("method",): 2,
    ("model",): 4,
    ("model", "name"): 5,
    ("model", "labels"): 6,
    ("model", "labels", 0): 7,
    ("model", "labels", 1): 8,
    ("model", "labels", 2): 10,
    ("model", "quoted.key"): 12,
    ("data", "partition"): 15,
    ("data", "partition", "clients"): 16,
    ("data", "text"): 17,
    ("data", "inline"): 20,
    ("data", "inline", "y", "z", 1, "w"): 20,
    ("adapter", "in ner"): 22,
    ("adapter", "in ner", "b"): 24,
    ("many", 0, "k"): 26,
    ("many", 1, "k"): 28,
    ("many", 1, "below", "deep"): 30,
}


def paths_of(value: Any, at: Path = ()) -> set[Path]:
    """Every path below a parsed TOML value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path for key, child in items for path in ({(*at, key)} | paths_of(child, (*at, key)))}


@pytest.mark.parametrize("path", LINES, ids=str)
def test_a_key_is_on_its_line(path: Path) -> None:
    assert index_lines(TEXT)[path] == LINES[path]


def test_the_example_has_no_other_keys() -> None:
    assert set(index_lines(TEXT)) == paths_of(tomllib.loads(TEXT))


def test_windows_line_ends_change_nothing() -> None:
    assert index_lines(TEXT.replace("\n", "\r\n")) == index_lines(TEXT)


BARE_KEYS = st.text("abcAZ09_-", min_size=1, max_size=4)
QUOTED_KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=4)
SPACES = st.sampled_from(["", " ", "\t "])
COMMENTS = st.sampled_from(["", ' # it\'s [a] "comment" = {1}'])
VOIDS = st.sampled_from(["", " ", "\n", " # ] , }\n\n  "])


def basic(text: str) -> str:
    """A one-line TOML string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def strings(draw: st.DrawFn) -> str:
    """A string in one of TOML's four spellings, with quotes, brackets and newlines inside."""
    text = draw(st.text("a\"'\\]}#=,\n[{ ", max_size=8))
    safe = text.replace("\\", "\\\\")
    ended = safe.rstrip('"') + "x" * (safe != safe.rstrip('"')) + draw(st.sampled_from(["", '"', '""']))
    return draw(
        st.sampled_from(
            [
                basic(text.replace("\n", "")),
                "'" + text.replace("'", "").replace("\n", "") + "'",
                '"""' + ended.replace('"""', '""\\"') + '"""',
                "'''" + text.replace("'", "") + "'" * draw(st.integers(0, 2)) + "'''",
            ]
        )
    )


SCALARS = st.one_of(
    strings(),
    st.sampled_from(["1", "-0.5e-3", "true", "inf", "0x1F", "1979-05-27 07:32:00", "07:32:00", "1_000"]),
)


@st.composite
def keys(draw: st.DrawFn) -> tuple[str, str]:
    """A key and one of its spellings."""
    if draw(st.booleans()):
        key = draw(BARE_KEYS)
        return key, draw(st.sampled_from([key, basic(key), f"'{key}'"]))
    key = draw(QUOTED_KEYS)
    return key, basic(key)


def values(depth: int) -> st.SearchStrategy[str]:
    """A TOML value: a scalar, an array over several lines, or an inline table."""
    if depth == 0:
        return SCALARS
    inner = values(depth - 1)
    return st.one_of(SCALARS, arrays(inner), inline_tables(inner))


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    items = [draw(VOIDS) + item + draw(VOIDS) for item in draw(st.lists(inner, max_size=3))]
    trailing = "," + draw(VOIDS) if items and draw(st.booleans()) else ""
    return "[" + ",".join(items) + trailing + (draw(VOIDS) if not items else "") + "]"


@st.composite
def inline_tables(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    chosen = draw(st.lists(keys(), max_size=3, unique_by=lambda key: key[0]))
    return "{ " + ", ".join(f"{spelling}{draw(SPACES)}={draw(SPACES)}{draw(inner)}" for _, spelling in chosen) + " }"


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Pairs, dotted pairs, tables and arrays of tables, in the spellings that people use."""
    lines: list[str] = []
    for _ in range(draw(st.integers(0, 4))):
        dotted = [spelling for _, spelling in draw(st.lists(keys(), min_size=1, max_size=3))]
        brackets = draw(st.sampled_from([("[", "]"), ("[[", "]]")]))
        lines.append(brackets[0] + draw(SPACES) + " . ".join(dotted) + draw(SPACES) + brackets[1] + draw(COMMENTS))
        for _ in range(draw(st.integers(0, 3))):
            dotted = [spelling for _, spelling in draw(st.lists(keys(), min_size=1, max_size=2))]
            lines.append(
                f"{draw(SPACES)}{'.'.join(dotted)}{draw(SPACES)}={draw(SPACES)}{draw(values(2))}{draw(COMMENTS)}"
            )
    return "\n".join(lines)


@given(documents())
def test_the_index_agrees_with_tomllib_about_which_keys_exist(text: str) -> None:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # two random keys collided
        return
    assert set(index_lines(text)) == paths_of(parsed)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_lines_count_comments_and_blank_lines(gaps: list[int]) -> None:
    text, expected, line = "", {}, 1
    for position, gap in enumerate(gaps):
        text += "# note\n" * gap + f"key{position} = {position}\n"
        line += gap
        expected[(f"key{position}",)] = line
        line += 1
    assert index_lines(text) == expected
