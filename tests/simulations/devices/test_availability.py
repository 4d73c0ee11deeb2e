"""Who is online when: the sine of the day, and traces, each against its definition; and traces that cannot be."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedtune.errors import DataError
from simulations.devices.availability import Always, Diurnal, Traced
from simulations.devices.draws import uniform
from simulations.devices.trace import read_trace

NAMES = [f"client-{position}" for position in range(30)]


def diurnal(share: float, spread: float, seed: int = 0) -> Diurnal:
    return Diurnal(NAMES, share=share, day_s=1000.0, phase_spread=spread, seed=seed)


@settings(max_examples=100, deadline=None)
@given(share=st.floats(0.05, 0.95), spread=st.floats(0, 1), now=st.floats(0, 5000), client=st.sampled_from(NAMES))
def test_a_client_is_online_while_its_sine_is_high(share: float, spread: float, now: float, client: str) -> None:
    phase = spread * (uniform(0, "phase", client=client) - 0.5)

    def above(moment: float) -> float:
        return math.sin(2 * math.pi * (moment / 1000.0 + phase)) - math.cos(math.pi * share)

    assume(abs(above(now)) > 1e-6)
    made = diurnal(share, spread)
    assert bool(made.online(now)[NAMES.index(client)]) == (above(now) > 0)
    if above(now) > 0:
        end = made.until(client, now)
        assert now < end <= now + share * 1000.0 + 1e-6
        assert above(end) == pytest.approx(0, abs=1e-6)
        assert all(above(now + part * (end - now)) > 0 for part in (0.25, 0.5, 0.75))


def test_the_share_of_a_day_is_what_it_says_and_phases_spread_it() -> None:
    for share, spread in ((0.3, 0.0), (0.5, 1.0), (1.0, 0.5)):
        online = np.array([diurnal(share, spread).online(moment) for moment in np.arange(0, 1000, 2.0)])
        np.testing.assert_allclose(online.mean(axis=0), share, atol=0.01)
    assert set(diurnal(0.5, 0.0).online(250.0)) == {True} != set(diurnal(0.5, 0.0).online(750.0))
    assert diurnal(1.0, 1.0).until("client-3", 77.0) == math.inf
    assert not np.array_equal(diurnal(0.5, 1.0).online(1.0), diurnal(0.5, 1.0, seed=1).online(1.0))


def test_looks_cover_a_day_and_end() -> None:
    looks = list(diurnal(0.5, 1.0).looks(100.0))
    assert looks[0] > 100.0
    assert looks[-1] >= 1100.0
    assert len(looks) < 1500
    assert all(first < second for first, second in itertools.pairwise(looks))
    assert list(Always(3).looks(0.0)) == []


INTERVALS = st.tuples(st.sampled_from(NAMES[:4]), st.integers(0, 40), st.integers(1, 15))


@settings(max_examples=80, deadline=None)
@given(drawn=st.lists(INTERVALS, min_size=1, max_size=12), now=st.integers(0, 60))
def test_a_trace_is_online_exactly_in_its_intervals(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, int, int]], now: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "trace.csv"
    lines = [f"{client},{start},{start + length}" for client, start, length in drawn]
    path.write_text("\n".join(["client,start,end", *lines]))
    made = Traced(NAMES, read_trace(path, NAMES))
    there = {client for client, start, length in drawn if start <= now < start + length}
    assert {name for name, online in zip(NAMES, made.online(now), strict=True) if online} == there
    for client in there:
        end = int(made.until(client, now))
        covered = {t for name, start, length in drawn if name == client for t in range(start, start + length)}
        assert end not in covered
        assert set(range(now, end)) <= covered
    assert list(made.looks(now)) == sorted(
        {float(start) for client, intervals in made_of(path).items() for start, _ in intervals if start > now}
    )


def made_of(path: Path) -> dict[str, list[tuple[float, float]]]:
    return read_trace(path, NAMES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column client, start, end"),
        ("client,start\nclient-0,1", "has no column end"),
        ("client,start,end\n", "has no line of a client"),
        ("client,start,end\nclient-99,0,1", "line 2 .* about 'client-99', and there is no such client"),
        ("client,start,end\nclient-0,0,1\nclient-1,soon,1", "line 3 .* in seconds, not 'soon' and '1'"),
        ("client,start,end\nclient-0,5,5", "must end after it starts"),
        ("client,start,end\nclient-0,-1,5", "start at 0 or later"),
        ("client,start,end\nclient-0,0,nan", "must end after it starts"),
        ("client,start,end\nclient-0,0", "must give start and end in seconds"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_trace_that_cannot_be_is_refused_in_one_sentence(tmp_path: Path, text: str | bytes | None, said: str) -> None:
    path = tmp_path / "trace.csv"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError, match=said) as caught:
        read_trace(path, NAMES)
    assert "\n" not in str(caught.value)
