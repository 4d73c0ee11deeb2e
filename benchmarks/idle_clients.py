"""What an idle simulated client costs: fedtune's engine and cohort Grid beside Flower's Ray simulator, in one run.

    python benchmarks/idle_clients.py [--clients 1000] [--rounds 3] [--no-ray]

All sides move the same 4 kB state to every client and back and average it; no side trains. CPU time includes child
processes; a side's cost a client is (rounds 2 … n) / (clients · rounds), start-up left out.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests' tiny model and rows

from benchmarks.simulators.measure import cpu_s

STATE_FLOATS = 1024


def rss_mb() -> float:
    return sum(p.memory_info().rss for p in [psutil.Process(), *psutil.Process().children(recursive=True)]) / 1e6


Mark = tuple[float, float, float]


def mark() -> Mark:
    """CPU seconds, resident MB, and the clock."""
    return cpu_s(), rss_mb(), time.monotonic()


def fedtune_engine(clients: int, rounds: int) -> dict[str, float]:
    """The whole way: task, validation, exact sum, checkpoint, record; zero local steps on a tiny BERT."""
    from fedtune.recipe import Recipe
    from server.listener import Listener
    from simulations.simulate import simulate
    from tests.factories import tiny_bert
    from tests.worlds import tiny_recipe, write_rows

    marks: list[Mark] = []

    class Marks(Listener):
        def finished(self, record: object) -> None:
            marks.append(mark())

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        recipe: Recipe = tiny_recipe(
            tiny_bert(root / "model"),
            write_rows(root / "rows.jsonl", 2 * clients),
            root,
            data={"test_fraction": 0.0, "partition": {"clients": clients}},
            adapter={"rank": 16, "targets": "attention", "head": False},
            training={"steps": 0},
            federation={"rounds": rounds},
        )
        simulate(recipe, listener=Marks())
    return _result(marks, clients, rounds)


def _flower_parts(rounds: int, marks: list[Mark]) -> tuple[object, object]:
    """A Flower ServerApp (FedAvg) and a ClientApp that gives back what it was sent."""
    from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg

    class Marked(FedAvg):
        def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
            result = super().aggregate_train(server_round, replies)
            marks.append(mark())
            return result

    server, client = ServerApp(), ClientApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001
        marks.append(mark())
        Marked(fraction_train=1.0, fraction_evaluate=0.0).start(
            grid=grid, initial_arrays=ArrayRecord({"w": Array(np.zeros(STATE_FLOATS, np.float32))}), num_rounds=rounds
        )

    @client.train()
    def train(message: Message, context: Context) -> Message:  # noqa: ARG001
        arrays = ArrayRecord({"w": Array(message.content["arrays"]["w"].numpy())})
        return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    return server, client


def cohort_with_flowers_fedavg(clients: int, rounds: int) -> dict[str, float]:
    """Flower's own FedAvg and the same ClientApp, over our Grid."""
    from flwr.app import Context, RecordDict

    from simulations.cohort import CohortGrid, plain_context, work_with_app

    marks: list[Mark] = []
    server, client = _flower_parts(rounds, marks)
    grid = CohortGrid([f"client-{i}" for i in range(clients)], work_with_app(client, plain_context))
    server(grid, Context(1, 1, {}, RecordDict(), {}))
    return _result(marks, clients, rounds)


def flower_with_ray(clients: int, rounds: int) -> dict[str, float]:
    """Flower's simulator on Ray, one actor a core."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    from flwr.simulation import run_simulation

    marks: list[Mark] = []
    server, client = _flower_parts(rounds, marks)
    run_simulation(server, client, clients, backend_config={"client_resources": {"num_cpus": 1}})
    return _result(marks, clients, rounds)


def _result(marks: list[Mark], clients: int, rounds: int) -> dict[str, float]:
    """Cost of all rounds but the first, whose mark closes it; `marks` begins before round 1."""
    first, last, work = marks[1], marks[-1], clients * (rounds - 1)
    return {
        "cpu_ms": 1000 * (last[0] - first[0]) / work,
        "wall_ms": 1000 * (last[2] - first[2]) / work,
        "rss_kb": 1000 * (last[1] - marks[0][1]) / clients,
        "rss_mb": last[1],
    }


def _in_process(side: Callable[[int, int], dict[str, float]], clients: int, rounds: int) -> dict[str, float]:
    """Run a side in a fresh process, so that none inherits another's imports or memory."""
    os.environ.update(
        OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", FLWR_TELEMETRY_ENABLED="0", TOKENIZERS_PARALLELISM="false"
    )
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(side, (clients, rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--no-ray", action="store_true", help="leave out Flower's simulator (needs the extra `ray`)")
    options = parser.parse_args()
    sides = [fedtune_engine, cohort_with_flowers_fedavg] + ([] if options.no_ray else [flower_with_ray])
    results = {side.__name__: _in_process(side, options.clients, options.rounds) for side in sides}
    print(f"{options.clients} idle clients, {options.rounds} rounds, 4 kB each way; rounds 2 and on")
    titles = f"{'CPU ms/client':>14}{'wall ms/client':>15}{'RSS growth kB/client':>21}{'RSS MB':>8}{'CPU ratio':>10}"
    print(f"{'side':<28}{titles}")
    floor = results["fedtune_engine"]["cpu_ms"]
    for name, r in results.items():
        print(
            f"{name:<28}{r['cpu_ms']:>14.2f}{r['wall_ms']:>15.2f}{r['rss_kb']:>21.1f}{r['rss_mb']:>8.0f}"
            f"{r['cpu_ms'] / floor:>9.1f}x"
        )


if __name__ == "__main__":
    main()
