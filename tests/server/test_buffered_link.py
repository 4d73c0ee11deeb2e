"""Asynchronous rounds over the real link: a slow client holds nobody up, and its update counts when it comes."""

import threading
from pathlib import Path

import pytest

from client.link import LinkClient
from client.work import Workplace
from fedtune.runs.folder import RunFolder
from fedtune.runs.record import ClientRecord
from fedtune.wire import decode
from fedtune.wire.envelope import MAX_MESSAGE_BYTES
from protos.flower import Message, make_reply
from protos.payload import from_content, to_content
from server.link import LinkGrid
from server.listener import Listener
from server.run import run
from simulations.population import Population
from tests.worlds import tiny_recipe, write_rows

FAST, SLOW = "client-0", "client-1"
PATIENCE_S = 60.0


class Pace(Listener):
    """Lets the slow client answer when the fast one has its third task, and that be answered when the slow one has."""

    def __init__(self, slow: str = SLOW) -> None:
        self._slow = slow
        self.third, self.slow_counted = threading.Event(), threading.Event()
        self.asked_of_fast: list[int] = []

    def replied(self, record: ClientRecord, what: str) -> None:
        if record.client == self._slow:
            self.slow_counted.set()

    def before(self, client: str, round_: int) -> None:
        """A client has this round's task."""
        if client == self._slow:
            assert self.third.wait(PATIENCE_S)
            return
        self.asked_of_fast.append(round_)
        if len(self.asked_of_fast) == 3:
            self.third.set()
            assert self.slow_counted.wait(PATIENCE_S)


def test_a_slow_client_holds_nobody_up_over_the_link(
    tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.run.draw_plots", lambda _: {})
    recipe = tiny_recipe(
        tiny_bert_folder,
        write_rows(tmp_path / "rows.jsonl", 40),
        tmp_path,
        data={"test_fraction": 0.25, "partition": {"clients": 2}},
        training={"steps": 2},
        federation={"rounds": 4, "buffer": 1, "min_clients": 2, "staleness_exponent": 1.0},
    )
    population, pace = Population.of(recipe), Pace()

    def client(name: str, address: str) -> LinkClient:
        place = Workplace(population)

        def answer(message: Message) -> Message:
            raw = from_content(message.content, max_bytes=MAX_MESSAGE_BYTES)
            pace.before(name, decode(raw).round)
            return make_reply(to_content(place.answer(name, raw)), message)

        return LinkClient(address, None, answer, name=name)

    with LinkGrid("127.0.0.1:0", None) as grid:
        clients = [client(name, str(grid.address)) for name in (FAST, SLOW)]
        threads = [threading.Thread(target=each.run, daemon=True) for each in clients]
        for thread in threads:
            thread.start()
        path = run(grid, recipe, resume=False, listener=pace)
    for each, thread in zip(clients, threads, strict=True):
        each.stop()
        thread.join(timeout=10)
    folder = RunFolder.open(path)
    records = folder.rounds()
    ends = [[(c.client, c.outcome, c.staleness) for c in r.clients] for r in records[1:4]]
    assert ends == [[(FAST, "ok", 0)], [(FAST, "ok", 0)], [(SLOW, "ok", 2)]]
    assert pace.asked_of_fast[:3] == [1, 2, 3]
    assert [r.aggregated for r in records] == [False, True, True, True, True]
    assert all(r.other_bytes_down == r.other_bytes_up == 0 and r.virtual is None for r in records)
    assert "under_way" not in folder.checkpoints.latest().extra
    assert not folder.checkpoints.latest().parts.get("models")
