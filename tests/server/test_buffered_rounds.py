"""Asynchronous rounds on a virtual clock: whose update counts when and how much, and what a resume brings."""

from pathlib import Path
from typing import Any

import pytest

from fedtune.errors import RunError
from fedtune.recipe import Recipe
from fedtune.runs.folder import RunFolder
from fedtune.runs.log import scalars
from simulations.simulate import simulate
from tests.server.buffered_runs import BUFFERS, PACES, UNEVEN, StopsInRound, entries, lasting, run_paced, timed_recipe
from tests.worlds import each_alone, write_rows


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.run.draw_plots", lambda _: {})


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 80)


@pytest.fixture
def recipe(tiny_bert_folder: Path, rows: Path, tmp_path: Path) -> Any:
    """By name, with sections that change any key: a virtual second a row."""

    def make(name: str, **sections: dict[str, Any]) -> Recipe:
        return timed_recipe(tiny_bert_folder, rows, tmp_path, name, **sections)

    return make


def buffered(**keys: Any) -> dict[str, Any]:
    return {"rounds": 4, "buffer": 1, **keys}


def test_a_slow_client_misses_as_many_models_as_the_fast_ones_make(recipe: Any) -> None:
    """10 s and 35 s a task, a model an update: at 10, 20, 30 by the fast one, at 35 by the slow one, at 40, …"""
    run = recipe("two", training={"steps": None}, federation=buffered(rounds=6))
    folder, _ = run_paced(run, {"client-0": 10, "client-1": 35})
    fast, slow = "client-0", "client-1"
    assert entries(folder) == [[(fast, 0)], [(fast, 0)], [(fast, 0)], [(slow, 3)], [(fast, 1)], [(fast, 0)]]
    assert [r.virtual.clock_s for r in folder.rounds() if r.virtual] == [0, 10, 20, 30, 35, 40, 50]
    seconds = [c.seconds for r in folder.rounds() for c in r.clients]
    assert seconds == [10, 10, 10, 35, 10, 10]


def test_each_model_is_the_one_before_and_the_buffers_updates_by_rows_and_staleness(recipe: Any) -> None:
    """FedBuff in double precision, from the updates as the clients sent them and a schedule worked out by hand."""
    section = buffered(buffer=2, staleness_exponent=0.7)
    run = recipe("hand", data={"partition": UNEVEN}, training={"steps": None}, federation=section)
    folder, place = run_paced(run, PACES)
    expected = place.models[1]
    for round_, buffer in enumerate(BUFFERS, start=1):
        updates = [(place.updates[begun, f"client-{client}"], round_ - begun) for client, begun in buffer]
        total = sum(update.examples for update, _ in updates)
        expected = {
            name: tensor.double()
            + sum(update.examples * (1.0 + stale) ** -0.7 * update.tensors[name].double() for update, stale in updates)
            / total
            for name, tensor in expected.items()
        }
        reached = folder.checkpoints.load(str(round_)).state
        assert max((expected[name] - reached[name]).abs().max().item() for name in expected) < 1e-6
        expected = {name: tensor.double() for name, tensor in reached.items()}
    assert entries(folder)[2] == [("client-0", 0), ("client-1", 2)]
    assert len({update.examples for update in place.updates.values()}) > 1
    assert [r.virtual.clock_s for r in folder.rounds() if r.virtual] == [0, 14, 28, 38, 48]
    assert [scalars(r).get("round/staleness") for r in folder.rounds()] == [None, None, None, 1.0, 0.5]


COPIED = {"upload": ["top-k"], "feedback": "ef21"}
RANKS = ["client-1=2", "client-2=3"]


@pytest.mark.parametrize(
    "more",
    [{}, {"compression": COPIED}, {"federation": {"ranks": RANKS}}],
    ids=["plain", "ef21", "ranks"],
)
def test_with_equal_speeds_and_everybody_at_work_the_rounds_are_the_synchronous_ones(
    recipe: Any, more: dict[str, dict[str, Any]]
) -> None:
    sections = {"aggregation": {"server_optimizer": "avgm"}, **more}
    sections["federation"] = {"rounds": 3, **more.get("federation", {})}
    with each_alone():
        waiting = simulate(recipe("waiting", **sections))
    sections["federation"] |= {"buffer": 4, "concurrency": 4}
    assert lasting(simulate(recipe("pacing", **sections))) == lasting(waiting)


DEVICES: dict[str, Any] = {
    "rows_per_s": 2.0,
    "speed_spread": 0.8,
    "jitter": 0.3,
    "up_mbps": 0.05,
    "down_mbps": 0.2,
    "latency_s": 0.5,
    "availability": "diurnal",
    "online_share": 0.7,
    "day_s": 300.0,
    "fail_in_upload": 0.2,
}


@pytest.mark.parametrize(
    ("compression", "ranks"),
    [({"upload": ["int8"], "feedback": "classic"}, RANKS), (COPIED, [])],
    ids=["classic feedback and ranks", "ef21"],
)
def test_a_run_repeats_resumes_and_shares_its_work_to_the_byte(
    recipe: Any, rows: Path, compression: dict[str, Any], ranks: list[str]
) -> None:
    """With factors that are broadcast, feedback that clients keep, moments, and clients that leave or die."""
    sections = {
        "data": {"partition": {"clients": 9}},
        "adapter": {"init": "public-gradient", "init_source": str(rows)},
        "compression": compression,
        "aggregation": {"server_optimizer": "avgm", "server_momentum": 0.5},
        "federation": {"rounds": 6, "buffer": 3, "concurrency": 5, "deadline_s": 30.0, "ranks": ranks},
        "simulation": DEVICES,
    }
    whole = simulate(recipe("whole", **sections))
    ends = [client for record in RunFolder.open(whole).rounds() for client in record.clients]
    assert {1, 2} <= {client.staleness for client in ends if client.outcome == "ok"}
    outcomes = {client.outcome for client in ends}
    assert outcomes > {"ok"}
    assert "stale-update" not in outcomes
    stopped = recipe("stopped", **sections)
    for round_ in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            simulate(stopped, resume=round_ > 3, listener=StopsInRound(round_))
        kept = RunFolder.open(Path(stopped.run.folder) / stopped.run.name).checkpoints.latest()
        assert kept is not None
        assert kept.round == round_ - 1
        assert len(kept.extra["under_way"]) >= 2
    assert lasting(simulate(stopped, resume=True, workers=2)) == lasting(whole)


def test_updates_that_are_too_old_are_left_out_and_late_clients_are_given_up(recipe: Any) -> None:
    section = buffered(rounds=5, max_staleness=2)
    folder, place = run_paced(
        recipe("old", training={"steps": None}, federation=section), {"client-0": 10, "client-1": 35}
    )
    (left_out,) = (c for r in folder.rounds() for c in r.clients if c.outcome != "ok")
    assert (left_out.client, left_out.outcome, left_out.staleness, left_out.examples) == ("client-1", "too-stale", 3, 0)
    assert left_out.bytes_up > 1000
    assert left_out.detail == "the update missed 3 rounds, more than federation.max_staleness"
    assert [[name for name, _ in counted] for counted in entries(folder)] == [["client-0"]] * 5
    assert folder.rounds()[-1].virtual.clock_s == 50
    late = recipe("late", training={"steps": None}, federation=buffered(rounds=4, deadline_s=32.0))
    folder, place = run_paced(late, {"client-0": 10, "client-1": 35})
    ended = [(r.round, c.client, c.seconds) for r in folder.rounds() for c in r.clients if c.outcome == "late"]
    assert ended == [(4, "client-1", 32.0)]
    assert [r.virtual.clock_s for r in folder.rounds()] == [0, 10, 20, 30, 40]
    assert (1, "client-1") not in place.updates


def test_a_round_ends_with_what_it_has_where_nobody_is_left_to_wait_for(recipe: Any) -> None:
    folder, _ = run_paced(recipe("few", training={"steps": None}, federation=buffered(rounds=2, buffer=5)), PACES)
    assert entries(folder) == [[("client-0", 0), ("client-1", 0), ("client-2", 0)]] * 2


def test_traffic_is_counted_in_the_round_in_which_a_client_ends(recipe: Any) -> None:
    folder, _ = run_paced(recipe("bytes", training={"steps": None}, federation=buffered(rounds=6)), PACES)
    records = folder.rounds()[1:]
    assert all(r.other_bytes_down == r.other_bytes_up == 0 for r in records)
    assert all(c.bytes_down > 1000 and c.bytes_up > 1000 for r in records for c in r.clients)


def test_without_a_clock_a_simulation_says_that_it_needs_one(recipe: Any) -> None:
    with pytest.raises(RunError, match=r"set simulation\.rows_per_s, for example 1\.0, or take buffer out"):
        simulate(recipe("timeless", federation=buffered(), simulation={"rows_per_s": 0.0}))
