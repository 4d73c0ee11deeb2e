"""Flower's simulator on Ray, in its fair form: workers of full priority, the model and the rows kept by each actor."""

import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.simulators.bare import Bench
from benchmarks.simulators.case import Case
from benchmarks.simulators.measure import Mark, Measured, mark, peak_mb, plain

_kept: dict[str, Bench] = {}


def run(case: Case, folder: Path) -> Measured:
    """Flower's FedAvg over a ClientApp that trains as the bare loop does; one actor a core."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["PYTHONPATH"] = os.getcwd()
    from flwr.simulation import run_simulation

    marks: list[Mark] = []
    state: dict[str, torch.Tensor] = {}
    server, client = _apps(case, folder, marks, state)
    run_simulation(server, client, case.clients, backend_config={"client_resources": {"num_cpus": 1}})
    return Measured(tuple(marks), plain(state), peak_mb())


def _apps(case: Case, folder: Path, marks: list[Mark], state: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg

    class Marked(FedAvg):  # type: ignore[misc]
        def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
            arrays, metrics = super().aggregate_train(server_round, replies)
            state.update(arrays.to_torch_state_dict())
            marks.append(mark())
            return arrays, metrics

    server, client = ServerApp(), ClientApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001
        start = ArrayRecord(Bench(case.recipe(folder)).start())
        marks.append(mark())
        strategy = Marked(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=case.clients)
        strategy.start(grid=grid, initial_arrays=start, num_rounds=case.rounds)

    @client.train()
    def train(message: Message, context: Context) -> Message:
        bench = bench_of(case, folder)
        name = bench.names[int(context.node_config["partition-id"])]
        round_ = int(message.content["config"]["server-round"])
        trained = bench.train(message.content["arrays"].to_torch_state_dict(), bench.batches(name, round_))
        metrics = MetricRecord({"num-examples": len(bench.rows(name))})
        return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)

    return server, client


def bench_of(case: Case, folder: Path) -> Bench:
    """An actor's model and rows, made once in its life."""
    torch.set_num_threads(1)
    if str(case) not in _kept:
        _kept[str(case)] = Bench(case.recipe(folder))
    return _kept[str(case)]
