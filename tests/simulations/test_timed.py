"""The cohort Grid on a virtual clock: order of arrival, deadlines, clients that go away, and work that is spared."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtune.errors import RunError
from fedtune.recipe import Recipe
from protos.flower import Message, make_error_reply, make_reply
from protos.payload import to_content
from server.exchange import Exchange, Reply
from server.roster import Roster
from simulations.devices.device import device_of
from simulations.devices.make import make_devices
from simulations.groups import AT_ONCE, SHARE
from simulations.timed import AWAY_S, TimedGrid

TASK = b"t" * 1000


class World:
    """Clients who answer with `up(client)` bytes, on a grid that notes whom it has work on."""

    def __init__(
        self, clients: int, up: Callable[[str], int] = lambda _: 500, rows: int = 10, seed: int = 0, **keys: object
    ) -> None:
        self.recipe = Recipe.model_validate({"model": {"name": "m"}, "simulation": keys, "run": {"seed": seed}})
        self.names = [f"client-{position}" for position in range(clients)]
        self.up = up
        self.worked: list[str] = []
        self.grid = TimedGrid(self.names, self._work, make_devices(self.recipe, self.names, lambda _: (rows, 0)))
        self.roster = Roster(self.grid)
        self.exchange = Exchange(self.grid, self.roster, max_bytes=10**6)

    def _work(self, jobs: Sequence[tuple[str, Message]]) -> Iterator[Message]:
        for client, message in jobs:
            self.worked.append(client)
            yield make_reply(to_content(b"r" * self.up(client)), message)

    def ask(self, names: Sequence[str] = (), *, deadline_s: float = math.inf, round_: int = 1) -> Iterator[Reply]:
        self.roster.refresh()
        payloads = dict.fromkeys(names or self.names, TASK)
        return self.exchange.ask(payloads, message_type="train", round_=round_, deadline_s=deadline_s)

    def arrival(self, client: str, sent: float = 0.0) -> float:
        device = device_of(self.recipe.simulation, self.recipe.run.seed, client)
        up = self.up(client) / device.up_bytes_per_s
        return sent + device.latency_s + len(TASK) / device.down_bytes_per_s + 10 / device.rows_per_s + up


SLOW_AND_FAST = {"rows_per_s": 2.0, "speed_spread": 1.0, "down_mbps": 0.01, "up_mbps": 0.001, "bandwidth_spread": 1.0}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), clients=st.integers(1, 40), deadline=st.floats(1, 60), factor=st.integers(1, 700))
def test_replies_come_in_the_order_of_arrival_and_the_deadline_parts_them(
    seed: int, clients: int, deadline: float, factor: int
) -> None:
    world = World(clients, lambda client: factor * int(client[7:]), seed=seed, **SLOW_AND_FAST)
    arrivals = {client: world.arrival(client) for client in world.names}
    replies = list(world.ask(deadline_s=deadline))
    in_time = sorted((client for client in world.names if arrivals[client] < deadline), key=arrivals.__getitem__)
    assert [reply.client for reply in replies if not reply.failure] == in_time
    assert [reply.seconds for reply in replies if not reply.failure] == pytest.approx([arrivals[c] for c in in_time])
    late = [reply for reply in replies if reply.failure]
    assert {(reply.failure, reply.seconds) for reply in late} <= {("late", deadline)}
    assert all(reply.virtual for reply in replies)
    assert world.exchange.bytes_up == sum(world.up(client) for client in in_time)
    assert world.exchange.bytes_down == clients * len(TASK)
    assert world.grid.clock.now == pytest.approx(deadline if late else max(arrivals[c] for c in in_time))
    # Whoever has not begun to send by then was not worked on.
    up_time = {c: world.up(c) / device_of(world.recipe.simulation, seed, c).up_bytes_per_s for c in world.names}
    assert set(world.worked) == {c for c in world.names if arrivals[c] - up_time[c] <= deadline}


def test_equal_arrivals_come_in_the_order_of_sending_without_being_held() -> None:
    world = World(3 * AT_ONCE, failures=("client-0=9",))
    replies = world.ask()
    assert [next(replies).client for _ in range(3)] == world.names[:3]
    assert len(world.worked) == AT_ONCE
    assert [reply.client for reply in replies] == world.names[3:]
    assert world.grid.clock.now == 0.0


def test_closing_early_spares_the_slow_ones_their_work() -> None:
    world = World(100, rows_per_s=1.0, speed_spread=1.0)
    replies = world.ask()
    first = [next(replies) for _ in range(AT_ONCE)]
    replies.close()  # type: ignore[attr-defined]  # a generator
    assert [reply.client for reply in first] == sorted(world.names, key=world.arrival)[:AT_ONCE]
    assert len(world.worked) == 100 / SHARE
    assert world.grid.clock.now == first[-1].seconds
    again = list(world.ask(world.names[:2]))  # nothing of the first round is left
    assert {reply.client for reply in again} == set(world.names[:2])
    assert again[0].seconds == pytest.approx(min(world.arrival(client) for client in world.names[:2]))


@pytest.mark.parametrize(
    ("keys", "gone"),
    [({"failures": ("client-1=1",)}, 2.0), ({"failures": ("client-1=1:upload",)}, 12.0)],
    ids=["before training", "amid the upload"],
)
def test_who_dies_is_unavailable_when_the_link_would_say_so_and_late_where_that_is_after_the_deadline(
    keys: dict[str, object], gone: float
) -> None:
    world = World(2, rows_per_s=1.0, latency_s=2.0, **keys)
    alive, dead = world.ask()
    assert (alive.client, alive.failure, alive.seconds) == ("client-0", "", 12.0)
    assert (dead.client, dead.failure, dead.data) == ("client-1", "unavailable", b"")
    assert dead.seconds == gone + AWAY_S
    assert "has been away for 60 s" in dead.detail
    assert world.worked == ["client-0"]
    alive, dead = world.ask(deadline_s=30.0)
    assert (dead.failure, dead.seconds) == ("late", 30.0)
    assert [reply.failure for reply in world.ask(round_=2)] == ["", ""]


def trace(folder: Path, *lines: str) -> dict[str, object]:
    path = folder / "trace.csv"
    path.write_text("\n".join(["client,start,end", *lines]))
    return {"availability": "trace", "trace": str(path)}


def test_clients_are_connected_as_a_trace_says_and_lost_where_they_leave_too_early(tmp_path: Path) -> None:
    online = trace(tmp_path, "client-0,0,1000", "client-1,5,12", "client-1,300,400", "client-2,300,305")
    world = World(4, rows_per_s=1.0, **online)
    assert world.roster.refresh() == ["client-0"]
    world.roster.wait_for(2, told=lambda _: None)
    assert (world.grid.clock.now, world.roster.refresh()) == (5.0, ["client-0", "client-1"])
    replies = {reply.client: reply for reply in world.ask(["client-0", "client-1"])}
    assert (replies["client-0"].failure, replies["client-0"].seconds) == ("", 10.0)
    assert (replies["client-1"].failure, replies["client-1"].seconds) == ("unavailable", 7.0 + AWAY_S)
    world.roster.wait_for(3, told=lambda _: None)
    assert world.grid.clock.now == 300.0
    with pytest.raises(RunError, match="never more than 3 of 4 clients are online at once, and 4 are waited for"):
        world.roster.wait_for(4, told=lambda _: None)


def test_an_upload_that_ends_after_the_client_left_is_lost_though_the_work_was_done(tmp_path: Path) -> None:
    online = trace(tmp_path, "client-0,0,12")
    world = World(1, lambda _: 500, rows_per_s=1.0, up_mbps=0.001, **online)  # 10 s of work, 4 s of upload
    (reply,) = world.ask()
    assert (reply.failure, reply.seconds, world.worked) == ("unavailable", 12.0 + AWAY_S, ["client-0"])


def test_flowers_own_call_waits_on_the_virtual_clock() -> None:
    world = World(3, rows_per_s=1.0, speed_spread=1.0)
    world.roster.refresh()
    times = sorted(world.arrival(client) for client in world.names)

    def messages() -> list[Message]:
        return [
            world.grid.create_message(to_content(TASK), "train", world.roster.node_id(client), "1")
            for client in world.names
        ]

    assert len(world.grid.send_and_receive(messages())) == 3
    assert world.grid.clock.now == pytest.approx(times[-1])
    before = world.grid.clock.now
    assert len(world.grid.send_and_receive(messages(), timeout=(times[0] + times[1]) / 2)) == 1
    assert world.grid.clock.now == pytest.approx(before + (times[0] + times[1]) / 2)


def test_a_handlers_error_is_an_arrival_like_another() -> None:
    world = World(1, rows_per_s=1.0)
    world.grid._handler = lambda jobs: (make_error_reply(0, "crashed", to=message) for _, message in jobs)
    (reply,) = world.ask()
    assert (reply.failure, reply.detail, reply.seconds) == ("unavailable", "crashed", 10.0)
