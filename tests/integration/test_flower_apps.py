"""Users' Flower code runs unchanged on our Grids: a stock strategy, and a ClientApp of its own with a mod."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from protos.names import node_id
from server.link import LinkGrid
from simulations.cohort import CohortGrid, plain_context, work_with_app
from tests.link.harness import ClientThread, eventually

NAMES = ("ada", "bob", "cyd")
ROUNDS = 3


def halve(message, context, call_next):
    """A mod: halves what the client learned, and changes the message that it was given."""
    before = message.content["arrays"]["w"].numpy()
    message.content["config"]["lr"] = 1.0
    reply = call_next(message, context)
    after = reply.content["arrays"]["w"].numpy()
    reply.content["arrays"] = ArrayRecord({"w": Array(before + (after - before) / 2)})
    return reply


def make_client_app():
    app = ClientApp(mods=[halve])

    @app.train()
    def train(message, context):
        context.state["seen"] = ConfigRecord({"rounds": rounds_seen(context) + 1})
        size = len(str(context.node_config["client-name"])) + node_id(str(context.node_config["client-name"])) % 7
        step = size * rounds_seen(context) * message.content["config"]["lr"]
        w = message.content["arrays"]["w"].numpy() + np.float32(step)
        metrics = MetricRecord({"num-examples": size, "loss": 1.0 / size})
        return Message(RecordDict({"arrays": ArrayRecord({"w": Array(w)}), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.5})}), reply_to=message)

    return app


def rounds_seen(context):
    return int(context.state["seen"]["rounds"]) if "seen" in context.state else 0


def make_server_app(results):
    app = ServerApp()

    @app.main()
    def main(grid, context):
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
        start = ArrayRecord({"w": Array(np.zeros(4, np.float32))})
        config = ConfigRecord({"lr": 99.0})
        results.append(strategy.start(grid, start, num_rounds=ROUNDS, timeout=30, train_config=config))

    return app


def run_on(grid):
    results = []
    make_server_app(results)(grid, Context(1, 1, {}, RecordDict(), {}))
    return results[0]


def on_cohort():
    return run_on(CohortGrid(NAMES, work_with_app(make_client_app(), plain_context)))


def on_link():
    def handler(name):
        app, context = make_client_app(), plain_context(name, node_id(name))
        return lambda message: app(message, context)

    with LinkGrid("127.0.0.1:0", None) as grid:
        clients = [ClientThread(grid.address, None, name, handler(name)) for name in NAMES]
        eventually(lambda: len(grid.get_node_ids()) == len(NAMES))
        result = run_on(grid)
        grid.close("done")
        assert [client.join() for client in clients] == ["done"] * len(NAMES)
    return result


def expected():
    """The same rounds by hand, in float64."""
    sizes = np.array([len(name) + node_id(name) % 7 for name in NAMES], dtype=float)
    w = 0.0
    for round_ in range(1, ROUNDS + 1):
        w += (sizes * (sizes * round_ / 2)).sum() / sizes.sum()
    return w


@pytest.mark.parametrize("run", [on_cohort, on_link], ids=["cohort", "link"])
def test_fedavg_and_a_client_app_with_a_mod_run_unchanged(run):
    result = run()
    assert result.arrays["w"].numpy() == pytest.approx(np.full(4, expected()), rel=1e-5)
    assert sorted(result.train_metrics_clientapp) == list(range(1, ROUNDS + 1))


def test_both_grids_end_with_the_same_numbers():
    """Within rounding: Flower's own strategies add replies in the order in which they arrive."""
    assert on_cohort().arrays["w"].numpy() == pytest.approx(on_link().arrays["w"].numpy(), rel=1e-6)
