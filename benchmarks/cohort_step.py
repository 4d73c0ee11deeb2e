"""What a cohort's local steps cost: in turns, together, together under DP-SGD; and the memory that a cohort takes.

    fedtune fetch minilm
    python -m benchmarks.cohort_step [--clients 8] [--repeats 7] [--no-memory]

MiniLM on one thread, clients of 8 rows of 64 tokens, AdamW, σ = 1, no dropout. The contenders take turns within every
repeat; CPU seconds are the least of all repeats, and the median over repeats of the ratio to the plain cohort's.

Memory: the peak of a process that trains a cohort less the peak of one that trains a single client on passes as large,
over the cohort's state: each client's tensors, their gradients and AdamW's two moments.
"""

import argparse
import gc
import multiprocessing
import os
import resource
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from statistics import median

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.private_step import EveryRow, FixedRows
from fedtune.cohort.private_step import CohortPrivateStep
from fedtune.cohort.step import CohortStep
from fedtune.cohort.works import most_clients
from fedtune.recipe import AdapterSection, ModelSection, Recipe, TrainingSection
from fedtune.recipe.privacy import PrivacySection
from fedtune.training.base import Assignment, LocalStep
from fedtune.training.private import PrivateStep
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep

BAR, MEMORY_BAR, STEPS, ROWS = 1.05, 1.2, 2, 8
LAST = tuple(f"encoder.layer.5.attention.self.{name}" for name in ("query", "value"))
ADAPTERS = {
    "square, rank 32": AdapterSection(kind="square", rank=32, targets=("query", "value")),
    "lora, rank 8": AdapterSection(kind="lora", init="kaiming", rank=8, targets=("query", "value")),
    "square, rank 32, last layer": AdapterSection(kind="square", rank=32, targets=LAST),
    "lora, rank 8, last layer": AdapterSection(kind="lora", init="kaiming", rank=8, targets=LAST),
}
LARGE = AdapterSection(kind="lora", init="kaiming", rank=64, targets="all-linear")


class Part(FixedRows):
    """The first rows of a table, for one client."""

    def __len__(self) -> int:
        return ROWS


def home_of(adapter: AdapterSection, *, private: bool) -> Resident:
    """MiniLM with an adapter."""
    privacy = PrivacySection(unit="example", delta=1e-5, noise_multiplier=1.0, sampling_rate=1.0, clip=1.0)
    return Resident.build(
        Recipe(
            model=ModelSection(name="minilm", labels=("no", "yes"), dropout=0.0),
            adapter=adapter,
            training=TrainingSection(steps=STEPS, batch_size=ROWS, device="cpu"),
            privacy=privacy if private else PrivacySection(),
        )
    )


def cohort_of(home: Resident, clients: int) -> list[Assignment]:
    """Clients that start from the same state."""
    return [Assignment(f"client-{number}", 1, home.initial, Part(), seed=number) for number in range(clients)]


def compare(title: str, adapter: AdapterSection, clients: int, repeats: int) -> None:
    """Print a line for each way to train the cohort."""
    plain, private = home_of(adapter, private=False), home_of(adapter, private=True)
    steps: dict[str, tuple[LocalStep, Resident]] = {
        "cohort": (CohortStep(plain), plain),
        "cohort, private": (CohortPrivateStep(private, rows=EveryRow()), private),
        "in turns": (SequentialStep(plain), plain),
        "in turns, private": (PrivateStep(private, rows=EveryRow()), private),
    }
    cohorts = {name: cohort_of(home, clients) for name, (_, home) in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(-1, repeats):
        names = list(steps)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            gc.collect()
            started = time.process_time()
            results = list(steps[name][0].train(cohorts[name]))
            if repeat >= 0:
                seconds[name].append((time.process_time() - started) / (STEPS * len(results)))
    base = seconds["cohort"]
    print(f"{title}: {clients} clients")
    for name, taken in seconds.items():
        ratio = median(own / other for own, other in zip(taken, base, strict=True))
        print(f"  {name:<18} {1e3 * min(taken):7.1f} ms a client step   {min(taken) / min(base):5.3f} x of least times"
              f"   {ratio:5.3f} x median")  # fmt: skip
    ratio = min(seconds["cohort, private"]) / min(base)
    print(f"  bar {BAR:.2f} x for privacy: {'met' if ratio <= BAR else 'MISSED'} by least times ({ratio:.3f} x)")


def memory() -> None:
    """Print what a cohort's state takes, and how much the process grew by it."""
    home = home_of(LARGE, private=False)
    numbers, clients = sum(p.numel() for p in home.attached.parameters().values()), most_clients(home)
    one, many = (_peak_of(count) for count in (1, clients))
    state = 16 * numbers * clients
    ratio = (many - one) / (state - 16 * numbers)
    print(f"memory: {clients} clients of {numbers:,} numbers are {state / 2**20:,.0f} MiB of state; peak "
          f"{one / 2**20:,.0f} MiB with one, {many / 2**20:,.0f} MiB with all: {ratio:.2f} x the state")  # fmt: skip
    print(f"  bar {MEMORY_BAR} x: {'met' if ratio <= MEMORY_BAR else 'MISSED'}")


def _peak_of(clients: int) -> int:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_train, args=(clients, theirs))
    process.start()
    peak: int = ours.recv()
    process.join()
    return peak


def _train(clients: int, end: Connection) -> None:
    torch.set_num_threads(1)
    home = home_of(LARGE, private=False)
    cohort = cohort_of(home, clients)
    for _ in CohortStep(home).train([*cohort, *cohort] if clients == 1 else cohort):
        pass
    end.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-memory", action="store_true", help="times alone")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"{asked.repeats} repeats, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the start")
    for title, adapter in ADAPTERS.items():
        compare(title, adapter, asked.clients, asked.repeats)
    if not asked.no_memory:
        memory()


if __name__ == "__main__":
    main()
