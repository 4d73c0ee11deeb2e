"""Asynchronous rounds on Flower's own message store, by its Grid and our ClientApp: a slow node holds nobody up."""

import threading
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from client.app import app
from fedtune.runs.folder import RunFolder
from fedtune.wire import decode
from fedtune.wire.envelope import MAX_MESSAGE_BYTES
from protos.flower import set_identity
from protos.payload import from_content
from server.run import run
from tests.server.test_buffered_link import Pace
from tests.worlds import tiny_recipe, write_rows

LONG_S = 1000.0


class Node(threading.Thread):
    """A SuperNode without processes: takes one message after the other from the store and has our app answer it."""

    def __init__(self, state: LinkState, rows: Path) -> None:
        super().__init__(daemon=True)
        self._state = state
        self.id = state.create_node("me", "me", rows.name.encode(), LONG_S)
        state.activate_node(self.id, LONG_S)
        self._context = Context(1, self.id, {"data": str(rows)}, RecordDict(), {})
        self.name = f"node-{self.id}"
        self.pace = Pace()
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.01):
            for message in self._state.get_message_ins(self.id, limit=1):
                task = decode(from_content(message.content, max_bytes=MAX_MESSAGE_BYTES))
                self.pace.before(self.name, task.round)
                self._state.store_message_res(app(message, self._context))


def test_a_slow_node_holds_nobody_up_on_flowers_runtime(
    tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.run.draw_plots", lambda _: {})
    recipe = tiny_recipe(
        tiny_bert_folder,
        "",
        tmp_path,
        data={"source": "", "test_fraction": 0.0, "test_source": str(write_rows(tmp_path / "test.jsonl", 10, seed=9))},
        training={"steps": 2},
        federation={"rounds": 4, "buffer": 1, "min_clients": 2, "staleness_exponent": 1.0},
    )
    factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
    state = factory.state()
    run_id = state.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP)
    grid = InMemoryGrid(factory)
    grid.set_run(Run.create_empty(run_id))
    set_identity(run_id)
    fast, slow = (Node(state, write_rows(tmp_path / f"{seed}.jsonl", 12, seed=seed)) for seed in (1, 2))
    fast.pace = slow.pace = pace = Pace(slow.name)
    for node in (fast, slow):
        node.start()
    records = RunFolder.open(run(grid, recipe, resume=False, listener=pace)).rounds()
    for node in (fast, slow):
        node.stopped.set()
        node.join(timeout=10)
    ends = [[(c.client, c.outcome, c.staleness) for c in r.clients] for r in records[1:4]]
    assert ends == [[(fast.name, "ok", 0)], [(fast.name, "ok", 0)], [(slow.name, "ok", 2)]]
    assert [r.aggregated for r in records] == [False, True, True, True, True]
