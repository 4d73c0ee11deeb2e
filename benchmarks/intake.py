"""What one update costs the coordinator after it has arrived: read, check, add, beside a plain float64 running sum.

    python benchmarks/intake.py [--mib 1] [--updates 200]

CPU milliseconds an update on one thread. The exact sum does not depend on the order of arrival; the plain one does.
"""

import argparse
import time
from collections.abc import Callable

import torch

from fedtune.aggregation import Frame, Global, make_aggregator
from fedtune.aggregation.exact_sum import ExactSum
from fedtune.aggregation.validate import check_delta
from fedtune.compression import make_pipeline
from fedtune.recipe import AggregationSection
from fedtune.recipe.compression import CompressionSection
from fedtune.state import digest, shapes_of
from fedtune.wire import Task, Update, decode, encode
from server.exchange import Reply
from server.expected import Expected
from server.intake import Intake


def cpu_ms(work: Callable[[int], object], times: int) -> float:
    """Mean CPU milliseconds a call, the first call left out."""
    work(0)
    start = time.process_time()
    for i in range(1, times + 1):
        work(i)
    return 1000 * (time.process_time() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=float, default=1.0, help="size of an update")
    parser.add_argument("--updates", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    floats = int(options.mib * 2**18)
    state = {"m.R": torch.zeros(floats)}
    delta = {"m.R": torch.randn(floats) * 1e-3}
    task = Task("train", "run", 1, {}, "", "", digest(state), state)
    raw = [encode(Update("run", 1, f"c{i}", task.base, (), delta, 10)) for i in range(options.updates + 1)]
    frame = Frame("square", shapes_of(state), {}, 0, {}, 1.0, 0, lambda _: {})
    aggregator = make_aggregator(AggregationSection(), frame)
    aggregator.begin(Global(state), 1)
    expected = Expected(None, shapes_of(state), {})
    pipeline = make_pipeline(CompressionSection())
    intake = Intake(task, lambda _client, _rank: expected, aggregator, pipeline, AggregationSection(), seed=0)
    exact, plain = ExactSum((floats,)), torch.zeros(floats, dtype=torch.float64)

    def add_plain(_: int) -> None:
        plain.add_(delta["m.R"], alpha=10.0)

    def read(i: int) -> None:
        decode(raw[i])

    rows = {
        "whole intake": lambda i: intake.take(Reply(f"c{i}", raw[i], "", "", 0.0), bytes_down=0),
        "  read (checksum, tensors)": read,
        "  check (finite, shapes, norm)": lambda _: check_delta(delta, shapes_of(state), AggregationSection()),
        "  exact sum": lambda _: exact.add(delta["m.R"], 10.0),
        "plain float64 sum": add_plain,
    }
    print(f"updates of {options.mib:g} MiB, {options.updates} times, one thread")
    results = {name: cpu_ms(work, options.updates) for name, work in rows.items()}
    floor = results["plain float64 sum"]
    for name, value in results.items():
        print(f"{name:<32}{value:>8.2f} CPU ms {value / floor:>7.1f}x a plain sum")
    print(f"one core takes in {1000 / results['whole intake']:.0f} updates a second")


if __name__ == "__main__":
    main()
