"""The page of a report: self-contained, escaped, and with every part that a data-protection officer looks for."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_examples import RUNS, Run, client_run, example_recipe, example_run, measured

from fedtune.audit.ledger import read_ledger
from fedtune.audit.report.document import digest, gather, make_report
from fedtune.audit.report.hazards import HAZARDS
from fedtune.audit.report.page.curve import curve_chart
from fedtune.audit.report.page.render import MAX_ROWS, render_page
from fedtune.audit.report.words import bound_text, count_text, delta_text, epsilon_text, share_text
from fedtune.audit.report.write import measured_in

HOSTILE = "<script>alert('x')</script>\"&{{ 7 * 7 }}"


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
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def report_of(run: Path) -> dict[str, Any]:
    return make_report(gather(read_ledger(run), measured_in(run)), run)


@pytest.fixture(scope="module", params=sorted(RUNS))
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = RUNS[request.param](tmp_path_factory.mktemp("runs") / request.param)
    if request.param != "local":
        measured(run)
    return report_of(run)


def test_the_page_loads_nothing_and_runs_nothing(report: dict[str, Any]) -> None:
    html = render_page(report)
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "link", "img", "form", "base", "a"}
        assert not {"src", "style", "href", "onclick", "onload", "srcset"} & set(attributes)
    assert "url(" not in html
    assert "@import" not in html
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    allowed = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{allowed}';" in html


def test_every_statement_and_hazard_is_on_the_page(report: dict[str, Any]) -> None:
    text = Page(render_page(report)).text.replace("\N{NO-BREAK SPACE}", " ")
    said = report["statements"]
    assert said["headline"] in text
    assert all(explanation in text for explanation in said["explanations"])
    for row in said["trust"]:
        assert row["text"] in text
    for row in said["threats"]:
        assert row["by"] in text
    assert [row["name"] for row in said["hazards"]] == list(HAZARDS)
    for row in said["hazards"]:
        assert row["answer"] in {"addressed", "partly", "not addressed"}
        assert row["evidence"] in text
    for row in said["released"]:
        assert row["what"] in text


def test_the_page_shows_what_it_is_verified_by(report: dict[str, Any]) -> None:
    text = Page(render_page(report)).text
    ledger = report["figures"]["ledger"]
    for shown in (ledger["head"], ledger["public_key"], report["signature"]["value"], digest(report), "--verify"):
        assert shown in text
    assert "Not measured" in text if report["figures"]["empirical"] is None else "200 canaries" in text


def test_the_curve_says_what_it_shows(report: dict[str, Any]) -> None:
    charts = [attributes for tag, attributes in Page(render_page(report)).tags if tag == "svg"]
    assert len(charts) == 1
    assert epsilon_text(report["figures"]["spent"]["epsilon"]) in (charts[0]["aria-label"] or "")


def test_the_hash_on_the_page_is_that_of_the_report_however_it_is_laid_out(report: dict[str, Any]) -> None:
    assert digest(report) == digest(json.loads(json.dumps(report, indent=7, sort_keys=True)))
    assert digest(report) != digest({**report, "format": ""})


def test_words_of_a_hostile_coordinator_are_escaped(tmp_path: Path) -> None:
    recipe = example_recipe()
    model = recipe.model.model_copy(update={"name": HOSTILE})
    opened = {"run": HOSTILE, "created": HOSTILE, "versions": {HOSTILE: HOSTILE}, "base_model_fingerprint": HOSTILE}
    run = Run(tmp_path / "run", recipe.model_copy(update={"model": model}), **opened)
    run.abort(run.reserve(1, clients=[1]), HOSTILE)
    page = Page(render_page(report_of(run.folder)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count("<script>alert('x')</script>") >= 5
    assert "{{ 7 * 7 }}" in page.text


def test_a_failed_check_is_the_first_thing_that_one_reads(tmp_path: Path) -> None:
    run = client_run(tmp_path / "run", rounds=1)
    measured(run, bound=40.0)
    page = Page(render_page(report_of(run)))
    assert "a check has failed" in page.text
    assert "vouches for no guarantee" in page.text
    assert "Failed: the run is less private than it claims" in page.text


def test_a_long_run_of_many_makes_a_page_of_a_sane_size(tmp_path: Path) -> None:
    report = report_of(example_run(tmp_path / "run", clients=150, rounds=20))
    assert len(report["figures"]["composition"]["participants"]) == 150
    html = render_page(report)
    assert f"The {MAX_ROWS} dearest of 150" in Page(html).text
    assert len(html) < 200_000


@settings(max_examples=60, deadline=None)
@given(
    epsilons=st.lists(st.one_of(st.none(), st.floats(0, 1e9)), min_size=2, max_size=20),
    delta=st.floats(1e-12, 0.09),
    epsilon=st.one_of(st.none(), st.floats(0, 1e9)),
)
def test_a_curve_stays_in_its_frame(epsilons: list[float | None], delta: float, epsilon: float | None) -> None:
    curve = [(10.0**-place, value) for place, value in enumerate(epsilons, start=1)]
    chart = curve_chart(curve, delta, epsilon)
    finite = [value for value in epsilons if value is not None]
    assert (chart is None) == (len(finite) < 2 or epsilon is None)
    if chart is not None:
        left, top, right, bottom = chart.box
        places = [float(number) for number in re.findall(r"[\d.]+", chart.path)]
        assert all(left <= x <= right for x in [*places[::2], chart.mark.x])
        assert all(top <= y <= bottom for y in [*places[1::2], chart.mark.y])


@given(st.floats(0, 1e6), st.floats(0, 1))
def test_what_is_said_of_a_bound_is_never_less_than_it(epsilon: float, share: float) -> None:
    assert float(epsilon_text(epsilon)) >= epsilon * (1 - 1e-7)
    assert float(epsilon_text(epsilon)) <= epsilon + 0.0101
    assert float(bound_text(share).removesuffix(" %")) >= share * 100 * (1 - 1e-5)
    assert float(bound_text(share).removesuffix(" %")) <= max(share * 101.01, 1.01e-10)


def test_figures_read_as_people_write_them() -> None:
    assert (epsilon_text(2.9404), epsilon_text(3.0), epsilon_text(None)) == ("2.95", "3.00", "unbounded")
    assert (delta_text(1e-5), delta_text(2.5e-6), delta_text(0.01)) == ("1e-5", "2.5e-6", "1e-2")
    assert (share_text(0.02), share_text(0.148), bound_text(0.0204001)) == ("2 %", "14.8 %", "2.05 %")
    assert (count_text(0, "round"), count_text(1, "round"), count_text(1200, "round")) == (
        "no round",
        "1 round",
        "1,200 rounds",
    )
