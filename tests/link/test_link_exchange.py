"""Messages and replies over a link that works."""

import threading
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from fedtune.errors import DataError, TransportError
from protos import flower
from server.keys import KeyFolder
from server.link import CoordinatorLimits
from tests.link.harness import QUICK, ClientThread, ask, content, coordinator, echo, eventually, flower_id, payload_of


def test_a_stock_flower_strategy_runs_over_the_link(keys: KeyFolder) -> None:
    from flwr.serverapp.strategy import FedAvg

    def add_one(message: Message) -> Message:
        w = message.content["arrays"]["w"].numpy() + 1
        return flower.make_reply(
            RecordDict({"arrays": ArrayRecord({"w": Array(w)}), "metrics": MetricRecord({"num-examples": 1})}),
            to=message,
        )

    with (
        coordinator(keys) as grid,
        ClientThread(grid.address, keys, "a", add_one),
        ClientThread(grid.address, keys, "b", add_one),
    ):
        eventually(lambda: len(grid.get_node_ids()) == 2)
        strategy = FedAvg(fraction_evaluate=0.0)
        start = ArrayRecord({"w": Array(np.zeros(5, np.float32))})
        result = strategy.start(grid=grid, initial_arrays=start, num_rounds=3, timeout=20)
    assert result.arrays["w"].numpy().tolist() == [3] * 5


def test_replies_come_once_and_say_who_sent_them(keys: KeyFolder) -> None:
    with coordinator(keys) as grid, ClientThread(grid.address, keys, "a"), ClientThread(grid.address, keys, "b"):
        eventually(lambda: len(grid.get_node_ids()) == 2)
        ids = grid.push_messages(ask(grid, b"abc"))
        replies: list[Message] = []
        while len(replies) < 2 and grid.wait(20, ids):
            replies += grid.pull_messages(ids)
        assert {grid.name_of(reply.metadata.src_node_id) for reply in replies} == {"a", "b"}
        assert {reply.metadata.reply_to_message_id for reply in replies} == set(ids)
        assert all(payload_of(reply) == b"cba" and reply.metadata.run_id == 7 for reply in replies)
        assert grid.pull_messages(ids) == []
        assert not grid.wait(0.05)


def test_a_large_message_crosses_in_chunks_and_is_counted(keys: KeyFolder) -> None:
    raw = np.random.default_rng(0).bytes(5_000_000)
    with coordinator(keys) as grid, ClientThread(grid.address, keys, "a"):
        eventually(grid.get_node_ids)
        (reply,) = grid.send_and_receive(ask(grid, raw), timeout=20)
        assert payload_of(reply) == raw[::-1]
        traffic = grid.traffic(flower_id("a"))
        assert len(raw) < traffic.down_bytes < len(raw) + 500
        assert len(raw) < traffic.up_bytes < len(raw) + 500
        assert (traffic.down_messages, traffic.up_messages, traffic.resent_bytes) == (1, 1, 0)


def test_a_round_trip_takes_milliseconds(keys: KeyFolder) -> None:
    with coordinator(keys) as grid, ClientThread(grid.address, keys, "a"):
        eventually(grid.get_node_ids)
        grid.send_and_receive(ask(grid, b"warm"), timeout=20)
        start = time.monotonic()
        for _ in range(10):
            assert grid.send_and_receive(ask(grid, b"abc"), timeout=20)
        assert time.monotonic() - start < 1.0


def test_the_work_does_not_stop_the_heart(keys: KeyFolder) -> None:
    def slow(message: Message) -> Message:
        time.sleep(4 * QUICK.silence_s)
        return echo(message)

    with coordinator(keys) as grid, ClientThread(grid.address, keys, "a", slow) as client:
        eventually(grid.get_node_ids)
        (reply,) = grid.send_and_receive(ask(grid, b"abc"), timeout=10)
        assert payload_of(reply) == b"cba"
        assert len(client.told) == 1, client.told


def test_what_the_work_raises_becomes_an_error_that_holds_no_data(keys: KeyFolder) -> None:
    def fail(message: Message) -> Message:
        if payload_of(message) == b"ours":
            raise DataError("the data set is empty; give --data")
        raise ValueError("patient 4711 has no age")

    with coordinator(keys) as grid, ClientThread(grid.address, keys, "a", fail):
        eventually(grid.get_node_ids)
        (ours,) = grid.send_and_receive(ask(grid, b"ours"), timeout=20)
        (other,) = grid.send_and_receive(ask(grid, b"other"), timeout=20)
        assert ours.error.reason == "data-error: the data set is empty; give --data"
        assert (other.error.reason, other.error.code) == ("ValueError", flower.CLIENT_APP_RAISED_EXCEPTION)
        assert other.metadata.src_node_id == flower_id("a")


def test_a_withdrawn_message_is_not_begun_and_its_reply_is_dropped(keys: KeyFolder) -> None:
    began: list[bytes] = []
    go_on = threading.Event()

    def work(message: Message) -> Message:
        began.append(payload_of(message))
        go_on.wait(5)
        return echo(message)

    with coordinator(keys) as grid, ClientThread(grid.address, keys, "a", work):
        eventually(grid.get_node_ids)
        first = grid.push_messages(ask(grid, b"first"))
        second = grid.push_messages(ask(grid, b"second"))
        eventually(lambda: began and grid.traffic(flower_id("a")).down_messages == 2)
        grid.forget([*first, *second])
        time.sleep(0.1)
        go_on.set()
        (reply,) = grid.send_and_receive(ask(grid, b"third"), timeout=20)
        assert payload_of(reply) == b"driht"
        assert began == [b"first", b"third"]
        assert grid.pull_messages([*first, *second]) == []


def test_after_the_timeout_nothing_is_left_behind(keys: KeyFolder) -> None:
    def slow(message: Message) -> Message:
        time.sleep(0.3)
        return echo(message)

    with coordinator(keys) as grid, ClientThread(grid.address, keys, "a", slow):
        eventually(grid.get_node_ids)
        assert grid.send_and_receive(ask(grid, b"abc"), timeout=0.1) == []
        assert grid.statuses()[0].unanswered == 0
        assert not grid.wait(0.5)


def test_an_oversize_reply_is_an_error_and_the_link_goes_on(keys: KeyFolder) -> None:
    def inflate(message: Message) -> Message:
        return flower.make_reply(content(payload_of(message) * 2000), to=message)

    limits = CoordinatorLimits(heartbeat_s=0.2, max_message_bytes=100_000)
    with coordinator(keys, limits) as grid, ClientThread(grid.address, keys, "a", inflate):
        eventually(grid.get_node_ids)
        (large,) = grid.send_and_receive(ask(grid, b"x" * 60), timeout=20)
        assert "oversize" in (large.error.reason or "")
        (small,) = grid.send_and_receive(ask(grid, b"x"), timeout=20)
        assert len(payload_of(small)) == 2000


def test_an_oversize_message_is_refused_before_anything_is_sent(keys: KeyFolder) -> None:
    with (
        coordinator(keys, CoordinatorLimits(max_message_bytes=1000)) as grid,
        pytest.raises(TransportError, match="larger than the link's limit of 1000"),
    ):
        grid.push_messages(ask(grid, bytes(1000), ["a"]))


def test_a_client_that_takes_less_says_so(keys: KeyFolder) -> None:
    with coordinator(keys) as grid, ClientThread(grid.address, keys, "a", max_message_bytes=1000):
        eventually(grid.get_node_ids)
        (reply,) = grid.send_and_receive(ask(grid, bytes(2000)), timeout=20)
        assert "larger than the limit of 1000" in (reply.error.reason or "")


def test_a_message_to_a_client_that_comes_later_waits_for_it(keys: KeyFolder) -> None:
    with coordinator(keys) as grid:
        ids = grid.push_messages(ask(grid, b"abc", ["c"]))
        time.sleep(0.2)
        with ClientThread(grid.address, keys, "c"):
            assert grid.wait(20, ids)
            (reply,) = grid.pull_messages(ids)
            assert payload_of(reply) == b"cba"


def test_a_message_to_a_client_that_never_comes_gets_an_error(keys: KeyFolder) -> None:
    with coordinator(keys) as grid:
        (reply,) = grid.send_and_receive(ask(grid, b"abc", ["c"]), timeout=20)
        assert reply.error.code == flower.NODE_UNAVAILABLE
        assert "away for 1 s" in (reply.error.reason or "")


def test_a_client_that_leaves_is_not_waited_for(keys: KeyFolder) -> None:
    limits = CoordinatorLimits(heartbeat_s=0.2, away_s=60)
    began = threading.Event()

    def work(message: Message) -> Message:
        began.set()
        time.sleep(1)
        return echo(message)

    with coordinator(keys, limits) as grid, ClientThread(grid.address, keys, "a", work) as client:
        eventually(grid.get_node_ids)
        ids = grid.push_messages(ask(grid, b"abc"))
        assert began.wait(20)
        client.client.stop()
        assert client.join() == "stopped"
        assert grid.wait(20, ids)
        (reply,) = grid.pull_messages(ids)
        assert "has left" in (reply.error.reason or "")


def test_goodbye_ends_the_clients(keys: KeyFolder) -> None:
    with coordinator(keys) as grid:
        clients = [ClientThread(grid.address, keys, name) for name in "ab"]
        eventually(lambda: len(grid.get_node_ids()) == 2)
        grid.close("all rounds are done")
        grid.close("twice")
    assert [client.join() for client in clients] == ["all rounds are done"] * 2
    with pytest.raises(TransportError, match="closed"):
        grid.get_node_ids()


def test_a_coordinator_that_fails_says_no_goodbye(keys: KeyFolder) -> None:
    def fail() -> None:
        with coordinator(keys) as grid:
            clients.append(ClientThread(grid.address, keys, "a", retry_for_s=0.3))
            eventually(grid.get_node_ids)
            raise KeyError("a defect")

    clients: list[ClientThread] = []
    with pytest.raises(KeyError):
        fail()
    assert "no coordinator answers" in str(clients[0].join())


def test_without_keys_the_name_is_the_clients_word(caplog: pytest.LogCaptureFixture) -> None:
    with coordinator() as grid, ClientThread(grid.address, None, "nobody"):
        eventually(grid.get_node_ids)
        (reply,) = grid.send_and_receive(ask(grid, b"abc"), timeout=20)
        assert grid.name_of(reply.metadata.src_node_id) == "nobody"
    assert caplog.text.count("NO ENCRYPTION") == 2


def test_many_clients_share_the_bytes_of_a_broadcast(keys: KeyFolder) -> None:
    with coordinator(keys) as grid:
        parcels = grid._pack(ask(grid, bytes(10_000), ["a", "b", "c"]))
        assert len({id(payload.parts[0]) for _, _, payload in parcels}) == 1
        assert len({payload.sha256 for _, _, payload in parcels}) == 3
