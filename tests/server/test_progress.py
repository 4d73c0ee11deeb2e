"""What a person sees: bars that move with each reply, a line a round, and how long the rest takes."""

import io

import pytest
from rich.console import Console

from fedtune.runs.record import ClientRecord, RoundRecord
from server.progress import MOST_SAID, ProgressBars


def said(bars: ProgressBars) -> str:
    file = bars._console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.fixture
def bars() -> ProgressBars:
    return ProgressBars(Console(file=io.StringIO(), width=200))


def finished(round_: int, seconds: float | None) -> RoundRecord:
    return RoundRecord(round=round_, finished_at="", seconds=seconds, aggregated=bool(round_))


def test_after_the_first_round_the_rest_is_reckoned_once(bars: ProgressBars) -> None:
    bars.began("0123456789", 0, 10)
    for round_, seconds in ((0, 3.0), (1, 20.0), (2, 15.0)):
        bars.finished(finished(round_, seconds))
    assert said(bars).count("at this pace") == 1
    assert "at this pace 9 more rounds take about 3 min 00 s" in said(bars)


def test_nothing_is_reckoned_where_times_are_withheld_or_no_round_is_left(bars: ProgressBars) -> None:
    bars.began("0123456789", 0, 2)
    bars.finished(finished(1, None))
    bars.finished(finished(2, 1.0))
    assert "at this pace" not in said(bars)


def test_the_bar_of_the_rounds_moves_with_each_reply_that_trains() -> None:
    bars = ProgressBars(Console(file=io.StringIO(), force_terminal=True))
    bars.began("0123456789", 0, 4)
    assert bars._rounds is not None
    done = []
    for what in ("train", "train", "evaluate"):
        if not done or what == "evaluate":
            bars.asked(1, 2, what)
        bars.replied(ClientRecord(client="a", outcome="ok"), what)
        done.append(bars._bars.tasks[bars._rounds].completed)
    bars.finished(finished(1, 1.0))
    assert [*done, bars._bars.tasks[bars._rounds].completed] == [0.5, 1.0, 1.0, 1]


def test_a_few_replies_that_were_set_aside_are_said(bars: ProgressBars) -> None:
    bars.began("0123456789", 0, 4)
    bars.asked(1, 20, "train")
    for number in range(MOST_SAID + 5):
        bars.replied(ClientRecord(client=f"c{number}", outcome="no-data", detail="the client holds no rows"), "train")
    assert said(bars).count("the client holds no rows") == MOST_SAID
    assert said(bars).count("and more") == 1
