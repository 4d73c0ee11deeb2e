"""The numbers of a run, against sums made by hand."""

import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from runs_examples import make_record, realistic_rounds, write_run

from fedtune.runs.end_table import render, rows
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import ClientRecord, RoundRecord, ScoreRecord
from fedtune.runs.summary import perplexity, summarise, summarise_rounds
from fedtune.runs.words import bytes_text, number_text, percent_text, percent_tick, plain_tick, seconds_text


def sums(records: list[RoundRecord]) -> dict[str, int]:
    up: dict[str, int] = {}
    for record in records:
        for client in record.clients:
            up[client.client] = up.get(client.client, 0) + client.bytes_up
    return up


def test_a_realistic_run_adds_up(tmp_path: Path) -> None:
    records = realistic_rounds()
    summary = summarise(RunFolder.open(write_run(tmp_path, records)))
    up = sums(records)
    assert summary.bytes_up == sum(up.values()) == sum(r.bytes_up() for r in records)
    assert summary.clients == len(up)
    assert summary.up_per_client.median == statistics.median(up.values())
    assert summary.up_per_client.mean == pytest.approx(sum(up.values()) / len(up))
    assert summary.up_per_client.largest == max(up.values())
    assert (summary.rounds, summary.rounds_without_change) == (20, 1)
    assert summary.seconds == pytest.approx(sum(r.seconds for r in records))
    assert sum(summary.outcomes.values()) == 400
    assert (summary.where, summary.status) == ("central", "finished")
    assert summary.before == records[0].central
    assert summary.after == records[-1].central
    losses = {r.round: r.central.loss for r in records if r.central}
    assert summary.best_round == min(losses, key=lambda r: losses[r])


def test_without_a_central_set_the_federated_scores_count() -> None:
    score = ScoreRecord(examples=3, loss=0.5, accuracy=0.7)
    summary = summarise_rounds(
        [make_record(0), make_record(1, federated=score, best=True)], name="n", status="running", task="causal-lm"
    )
    assert (summary.where, summary.before, summary.after, summary.best_round) == ("federated", None, score, 1)
    assert ("perplexity", "– → 1.65  (best: 1.65, round 1)") in rows(summary)


def test_a_run_without_rounds_has_a_summary() -> None:
    summary = summarise_rounds([], name="n", status="running", task="causal-lm")
    assert (summary.rounds, summary.clients, summary.bytes_up, summary.after) == (0, 0, 0, None)
    assert ("score", "not evaluated") in rows(summary)


def test_the_table_shows_scores_bytes_and_what_was_left_out() -> None:
    records = [
        make_record(0, central=ScoreRecord(examples=100, loss=0.693, accuracy=0.5), clients=()),
        make_record(
            1,
            central=ScoreRecord(examples=100, loss=0.4, accuracy=0.825),
            best=True,
            clients=(
                ClientRecord(client="a", outcome="ok", bytes_up=1_500, bytes_down=2_000_000),
                ClientRecord(client="b", outcome="late", bytes_down=2_000_000),
            ),
        ),
    ]
    summary = summarise_rounds(records, name="first", status="finished", task="sequence-classification")
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(render(summary))
    text = capture.get()
    for words in (
        "first: finished",
        "50.0 % → 82.5 %",
        "0.693 → 0.400",
        "750 B (median; all clients 1.50 kB)",
        "1 × late",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (61_803, "61.8 kB"),
        (999_999, "1.00 MB"),
        (1.5e9, "1.50 GB"),
    ],
)
def test_bytes_read_in_decimal_units(count: float, text: str) -> None:
    assert bytes_text(count) == text


@given(st.integers(1, 10**17))
def test_bytes_are_within_half_a_percent(count: int) -> None:
    number, unit = bytes_text(count).split()
    power = ("B", "kB", "MB", "GB", "TB", "PB").index(unit)
    assert float(number) * 1000**power == pytest.approx(count, rel=0.0051)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 s"), (0.42, "0.42 s"), (3.14, "3.1 s"), (245, "4 min 05 s"), (7380, "2 h 03 min"), (59.99, "60.0 s")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_numbers_that_are_none() -> None:
    assert number_text(math.nan) == percent_text(math.nan) == "–"
    assert number_text(math.inf) == "∞"
    assert [number_text(v) for v in (0.4321, 1.5, 12.34, 123.4, 12345.6, -0.5)] == [
        "0.432", "1.50", "12.3", "123", "12,346", "-0.500",
    ]  # fmt: skip
    assert perplexity(1e6) == math.inf
    assert (percent_tick(0.825), percent_tick(0.8), plain_tick(0.4), plain_tick(2000)) == (
        "82.5 %",
        "80 %",
        "0.4",
        "2,000",
    )
