"""What a large population costs: an idle round of 300 out of 100,000 simulated clients, beside one out of 1,000.

    python benchmarks/population.py [--clients 1000 100000] [--asked 300] [--rounds 6]

Clients draw their rows from a table of 3,000 when they are asked (`sampled`), take no step and send a 4 kB state back;
devices have speeds, links and days of their own. CPU time is this process's, over rounds 2 and on.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests' tiny model and rows

DEVICES = {
    "rows_per_s": 4.0,
    "speed_spread": 0.8,
    "up_mbps": 1.0,
    "down_mbps": 5.0,
    "bandwidth_spread": 0.7,
    "availability": "diurnal",
}

Mark = tuple[float, float]


def mark() -> Mark:
    """CPU seconds and resident MB."""
    return time.process_time(), psutil.Process().memory_info().rss / 1e6


def marks_of(clients: int, asked: int, rounds: int) -> list[Mark]:
    """A mark after each round, the initial evaluation's first."""
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
        partition = {"scheme": "sampled", "clients": clients, "rows_per_client": 8, "rows_spread": 0.5}
        recipe = tiny_recipe(
            tiny_bert(root / "model"),
            write_rows(root / "rows.jsonl", 3000),
            root,
            data={"test_fraction": 0.0, "partition": partition},
            adapter={"rank": 16, "targets": "attention", "head": False},
            training={"steps": 0},
            federation={"rounds": rounds, "clients_per_round": asked},
            simulation=DEVICES,
        )
        simulate(recipe, listener=Marks())
    return marks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--asked", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    print(f"{options.asked} idle clients a round, {options.rounds} rounds")
    print(f"{'population':>12}{'CPU ms/client':>15}{'RSS MB':>8}{'RSS growth MB':>15}")
    for clients in options.clients:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # none inherits another's memory
            marks = pool.apply(marks_of, (clients, options.asked, options.rounds))
        first, last = marks[1], marks[-1]
        each = 1000 * (last[0] - first[0]) / (options.asked * (options.rounds - 1))
        print(f"{clients:>12,}{each:>15.2f}{last[1]:>8.0f}{last[1] - first[1]:>15.1f}", flush=True)


if __name__ == "__main__":
    main()
