"""Devices: draws of (seed, client) alone, arrivals by the arithmetic that the docs give, failures by the plan."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.errors import DataError
from fedtune.recipe import Recipe, TrainingSection
from fedtune.recipe.simulation import SimulationSection
from fedtune.training.order import local_steps
from simulations.devices.device import device_of
from simulations.devices.draws import log_normal, uniform
from simulations.devices.failures import Failures
from simulations.devices.make import make_devices
from simulations.devices.trip import Devices, rows_worked

NAMES = [f"client-{position}" for position in range(400)]


def section(**keys: object) -> SimulationSection:
    return SimulationSection.model_validate(keys)


def devices(sizes: Callable[[str], tuple[int, int]] = lambda _: (20, 6), **keys: object) -> Devices:
    recipe = Recipe.model_validate({"model": {"name": "m"}, "training": {"epochs": 3}, "simulation": keys})
    return make_devices(recipe, NAMES, sizes)


def test_a_draw_is_of_seed_purpose_round_and_client_alone() -> None:
    base = uniform(1, "p", round_=2, client="c")
    assert base == uniform(1, "p", round_=2, client="c")
    assert len({base, uniform(0, "p", round_=2, client="c"), uniform(1, "q", round_=2, client="c")}) == 3
    assert len({base, uniform(1, "p", round_=3, client="c"), uniform(1, "p", round_=2, client="d")}) == 3
    draws = np.array([uniform(0, "u", round_=k) for k in range(4000)])
    assert draws.min() > 0
    assert draws.max() < 1
    assert np.abs(np.sort(draws) - np.linspace(0, 1, 4000)).max() < 0.03  # Kolmogorov-Smirnov
    logs = np.log([log_normal(0.7, 0, "n", round_=k) for k in range(4000)])
    assert (logs.mean(), logs.std()) == (pytest.approx(0, abs=0.04), pytest.approx(0.7, abs=0.03))


def test_speeds_and_links_lie_around_their_medians_and_do_not_change() -> None:
    made = section(rows_per_s=5.0, speed_spread=1.0, down_mbps=8.0, up_mbps=2.0, bandwidth_spread=0.5, latency_s=0.1)
    all_devices = [device_of(made, 3, name) for name in NAMES]
    assert all_devices[7] == device_of(made, 3, "client-7") != device_of(made, 4, "client-7")
    assert np.median([d.rows_per_s for d in all_devices]) == pytest.approx(5.0, rel=0.2)
    assert np.median([d.down_bytes_per_s for d in all_devices]) == pytest.approx(1e6, rel=0.1)
    assert {round(d.down_bytes_per_s / d.up_bytes_per_s, 9) for d in all_devices} == {4.0}  # one draw for both
    assert {d.latency_s for d in all_devices} == {0.1}


def test_classes_have_their_shares_and_speeds() -> None:
    made = section(device_classes=("phone=3:4", "laptop=1:40"))
    speeds = [device_of(made, 0, name).rows_per_s for name in NAMES]
    assert set(speeds) == {4.0, 40.0}
    assert speeds.count(4.0) / len(speeds) == pytest.approx(0.75, abs=0.06)


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(0.1, 50),
    down=st.sampled_from([0.0, 0.5, 20.0]),
    up=st.sampled_from([0.0, 0.1, 5.0]),
    latency=st.floats(0, 2),
    sent=st.floats(0, 1e6),
    sizes=st.tuples(st.integers(0, 90), st.integers(0, 30)),
    kilobytes=st.tuples(st.integers(0, 9000), st.integers(0, 9000)),
    kind=st.sampled_from(["train", "evaluate", "gradient"]),
)
def test_an_arrival_is_sent_plus_latency_plus_bytes_over_bandwidth_plus_rows_over_speed(
    rate: float,
    down: float,
    up: float,
    latency: float,
    sent: float,
    sizes: tuple[int, int],
    kilobytes: tuple[int, int],
    kind: str,
) -> None:
    made = devices(lambda _: sizes, rows_per_s=rate, down_mbps=down, up_mbps=up, latency_s=latency)
    trip = made.trip("client-1", kind, 1, sent=sent, down_bytes=1000 * kilobytes[0])
    rows = {"train": 3.0 * sizes[0], "evaluate": sizes[1] / 3, "gradient": float(min(sizes[0], 64))}[kind]
    expected = sent + latency + rows / rate
    expected += kilobytes[0] * 8e3 / (down * 1e6) if down else 0.0
    expected += kilobytes[1] * 8e3 / (up * 1e6) if up else 0.0
    assert trip.arrival(1000 * kilobytes[1]) == pytest.approx(expected, rel=1e-12)
    assert trip.lost == math.inf


def test_jitter_is_drawn_anew_each_round_on_all_but_latency() -> None:
    made = devices(rows_per_s=1.0, up_mbps=8e-6, latency_s=100.0, jitter=0.5)
    trips = [made.trip("client-1", "train", round_, sent=0.0, down_bytes=9) for round_ in (1, 2, 1)]
    factors = [(trip.ready - 100.0) / 60.0 for trip in trips]
    assert factors[0] == factors[2] != factors[1]
    assert [trip.up_s_per_byte for trip in trips] == pytest.approx(factors)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(0, 40),
    epochs=st.integers(1, 3),
    steps=st.one_of(st.none(), st.integers(0, 20)),
    batch=st.integers(1, 9),
    accumulate=st.integers(1, 3),
)
def test_the_rows_of_a_rounds_work_are_those_of_its_steps(
    rows: int, epochs: int, steps: int | None, batch: int, accumulate: int
) -> None:
    training = TrainingSection(epochs=epochs, steps=steps, batch_size=batch, accumulate=accumulate)
    passed = sum(len(part) for step in local_steps(rows, training, 0) for part in step) if rows else 0
    assert rows_worked(rows, training) == passed


def test_who_dies_is_what_the_list_says_and_else_drawn_with_its_probability() -> None:
    listed = Failures(section(failures=("client-7=3", "client-9=4:upload")), 0, NAMES)
    assert [listed.phase("client-7", 3), listed.phase("client-9", 4)] == ["training", "upload"]
    assert {listed.phase(name, 3) for name in NAMES if name != "client-7"} == {None}
    drawn = Failures(section(fail_before_training=0.2, fail_in_upload=0.5), 0, NAMES)
    phases = [drawn.phase(name, round_) for name in NAMES for round_ in range(1, 6)]
    assert phases.count("training") / len(phases) == pytest.approx(0.2, abs=0.03)
    assert phases.count("upload") / len(phases) == pytest.approx(0.8 * 0.5, abs=0.04)
    assert phases == [drawn.phase(name, round_) for name in NAMES for round_ in range(1, 6)]
    with pytest.raises(DataError, match="names 'client-400', and there is no such client"):
        Failures(section(failures=("client-400=1",)), 0, NAMES)


def test_a_death_is_when_its_phase_begins_and_strikes_training_alone() -> None:
    made = devices(rows_per_s=1.0, latency_s=5.0, failures=("client-1=2", "client-2=2:upload"))
    assert made.trip("client-1", "train", 2, sent=10.0, down_bytes=0).lost == 15.0
    assert made.trip("client-2", "train", 2, sent=10.0, down_bytes=0).lost == 15.0 + 60.0
    assert made.trip("client-1", "evaluate", 2, sent=10.0, down_bytes=0).lost == math.inf
    assert made.trip("client-1", "train", 3, sent=10.0, down_bytes=0).lost == math.inf
