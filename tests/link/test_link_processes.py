"""Clients as processes of their own, killed as a power cut would kill them."""

import signal
import time
from pathlib import Path

import pytest

from protos import flower
from server.keys import KeyFolder
from server.link import CoordinatorLimits
from tests.link.harness import ClientProcess, ask, coordinator, eventually, flower_id, payload_of

pytestmark = pytest.mark.processes
PATIENT = CoordinatorLimits(heartbeat_s=0.3, away_s=20, max_deliveries=2)


def test_a_killed_client_that_is_started_again_answers_once(keys: KeyFolder, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    with coordinator(keys, PATIENT) as grid:
        with ClientProcess(grid.address, keys, "a", log, work_s=30) as first:
            eventually(grid.get_node_ids)
            ids = grid.push_messages(ask(grid, b"abc"))
            eventually(lambda: first.calls == 1)
            first.kill()
        with ClientProcess(grid.address, keys, "a", log) as second:
            assert grid.wait(10, ids)
            (reply,) = grid.pull_messages(ids)
            assert payload_of(reply) == b"cba"
            assert second.calls == 2
            assert not grid.wait(0.5)
            assert grid.traffic(flower_id("a")).up_messages == 1
            grid.close("done")
            assert second.process.wait(10) == 0


def test_a_message_that_kills_each_client_is_given_up(keys: KeyFolder, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    with coordinator(keys, PATIENT) as grid:
        ids = grid.push_messages(ask(grid, b"abc", ["a"]))
        for attempt in (1, 2):
            with ClientProcess(grid.address, keys, "a", log, work_s=30) as client:
                eventually(lambda n=attempt, c=client: c.calls == n)
                client.kill()
        with ClientProcess(grid.address, keys, "a", log):
            assert grid.wait(10, ids)
            (reply,) = grid.pull_messages(ids)
            assert reply.error.code == flower.CLIENT_APP_CRASHED
            assert "restarted 2 times" in (reply.error.reason or "")
        assert client.calls == 2


def test_a_killed_client_that_stays_away_fails_alone(keys: KeyFolder, tmp_path: Path) -> None:
    limits = CoordinatorLimits(heartbeat_s=0.3, away_s=0.5)
    with coordinator(keys, limits) as grid, ClientProcess(grid.address, keys, "b", tmp_path / "b", work_s=1):
        with ClientProcess(grid.address, keys, "a", tmp_path / "a", work_s=30) as killed:
            eventually(lambda: len(grid.get_node_ids()) == 2)
            ids = grid.push_messages(ask(grid, b"abc"))
            eventually(lambda: killed.calls == 1)
            killed.kill()
        start, replies = time.monotonic(), []
        while len(replies) < 2:
            assert grid.wait(10, ids)
            replies += grid.pull_messages(ids)
        assert time.monotonic() - start < 5
        assert {grid.name_of(r.metadata.src_node_id): r.has_error() for r in replies} == {"a": True, "b": False}
        eventually(lambda: [grid.name_of(n) for n in grid.get_node_ids()] == ["b"])


def test_a_client_that_is_stopped_from_the_keyboard_says_goodbye(keys: KeyFolder, tmp_path: Path) -> None:
    with (
        coordinator(keys, PATIENT) as grid,
        ClientProcess(grid.address, keys, "a", tmp_path / "c", work_s=30) as client,
    ):
        eventually(grid.get_node_ids)
        ids = grid.push_messages(ask(grid, b"abc"))
        eventually(lambda: client.calls == 1)
        client.process.send_signal(signal.SIGINT)
        assert grid.wait(20, ids)
        (reply,) = grid.pull_messages(ids)
        assert "has left" in (reply.error.reason or "")
        assert client.process.wait(20) != 0


def test_a_client_outlives_its_coordinator(keys: KeyFolder, tmp_path: Path) -> None:
    """The second coordinator listens where the first did; what the first one asked is void."""
    from server.keys import ServerKeys
    from server.link import LinkGrid

    with coordinator(keys, PATIENT) as grid:
        address = str(grid.address)
        with ClientProcess(address, keys, "a", tmp_path / "calls", work_s=0.5) as client:
            eventually(grid.get_node_ids)
            grid.push_messages(ask(grid, b"old"))
            eventually(lambda: client.calls == 1)
            grid.close(None)
            with LinkGrid(address, ServerKeys(keys.folder), limits=PATIENT) as again:
                eventually(again.get_node_ids)
                (reply,) = again.send_and_receive(ask(again, b"new"), timeout=10)
                assert payload_of(reply) == b"wen"
                again.close()
                assert client.process.wait(10) == 0
