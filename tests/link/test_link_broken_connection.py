"""Connections that break in the middle: what arrived is not sent again, and nothing is done twice."""

import time

import numpy as np

from protos.flower import Message
from server.keys import KeyFolder
from server.link import CoordinatorLimits
from tests.link.harness import ClientThread, Proxy, ask, coordinator, echo, eventually, flower_id, payload_of

SIZE = 4 << 20
LIMITS = CoordinatorLimits(heartbeat_s=0.3, away_s=10, chunk_bytes=64 << 10, window_bytes=256 << 10)
RAW = np.random.default_rng(1).bytes(SIZE)


def _round_trip(keys: KeyFolder, cut_after: dict[str, int]) -> tuple[Proxy, int]:
    """One message over a proxy that cuts; how often the handler was called, and the proxy's counts."""
    calls = []

    def work(message: Message) -> Message:
        calls.append(message.metadata.message_id)
        return echo(message)

    with coordinator(keys, LIMITS) as grid, Proxy("127.0.0.1", grid.address.port) as proxy:
        with ClientThread(proxy.address, keys, "a", work):
            eventually(grid.get_node_ids)
            proxy.cut_after = dict(cut_after)
            (reply,) = grid.send_and_receive(ask(grid, RAW), timeout=20)
            assert payload_of(reply) == RAW[::-1]
            assert not grid.wait(0.3)
        assert grid.traffic(flower_id("a")).up_messages == 1
        return proxy, len(calls)


def test_a_download_that_breaks_resumes(keys: KeyFolder) -> None:
    proxy, calls = _round_trip(keys, {"down": 3 << 20})
    assert (proxy.cuts, calls) == (1, 1)
    assert proxy.passed["down"] < SIZE + (1 << 20)


def test_an_upload_that_breaks_resumes(keys: KeyFolder) -> None:
    proxy, calls = _round_trip(keys, {"up": 3 << 20})
    assert (proxy.cuts, calls) == (1, 1)
    assert proxy.passed["up"] < SIZE + (1 << 20)


def test_a_connection_that_breaks_again_and_again_gets_there(keys: KeyFolder) -> None:
    calls = []

    def work(message: Message) -> Message:
        calls.append(message.metadata.message_id)
        return echo(message)

    with coordinator(keys, LIMITS) as grid, Proxy("127.0.0.1", grid.address.port) as proxy:
        with ClientThread(proxy.address, keys, "a", work):
            eventually(grid.get_node_ids)
            proxy.cut_again = [700_000] * 6
            proxy.cut_after = {"down": 700_000, "up": 700_000}
            (reply,) = grid.send_and_receive(ask(grid, RAW), timeout=60)
            assert payload_of(reply) == RAW[::-1]
        assert len(calls) == 1
        assert proxy.cuts >= 5


def test_a_peer_that_falls_silent_is_gone_after_three_heartbeats(keys: KeyFolder) -> None:
    """A cable that is pulled sends no FIN: only the missing heartbeats tell."""
    with (
        coordinator(keys, LIMITS) as grid,
        Proxy("127.0.0.1", grid.address.port) as proxy,
        ClientThread(proxy.address, keys, "a") as client,
    ):
        eventually(grid.get_node_ids)
        proxy.frozen.set()
        start = time.monotonic()
        eventually(lambda: not grid.get_node_ids())
        assert time.monotonic() - start < 2 * LIMITS.silence_s
        eventually(lambda: any("lost" in line for line in client.told))
        proxy.frozen.clear()
        eventually(grid.get_node_ids)
