"""What privacy costs a local step on a CPU: plain steps, private ones, Opacus' engine by hooks and by ghost clipping.

    fedtune fetch minilm
    python benchmarks/private_step.py [--repeats 9] [--steps 4] [--threads 2]

Steps of 16 rows of 64 tokens on MiniLM (22.7 M parameters), AdamW, σ = 1, no dropout anywhere, so that all compute the
same. The contenders take turns within every repeat. CPU seconds of the process: the least of all repeats, which other
work on the machine disturbs least, and the median over repeats of the ratio to the plain step of the same repeat.
"""

import argparse
import gc
import os
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads would burn the seconds that are measured

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedtune.data.base import Batch
from fedtune.recipe import AdapterSection, ModelSection, Recipe, TrainingSection
from fedtune.recipe.privacy import PrivacySection
from fedtune.training.base import Assignment, LocalStep
from fedtune.training.optimizer import make_optimizer
from fedtune.training.private import PrivateStep
from fedtune.training.resident import Resident
from fedtune.training.sequential import SequentialStep

ROWS, TOKENS, CLIP = 16, 64, 1.0
ADAPTERS = {
    "square, rank 32, attention": AdapterSection(kind="square", rank=32, targets="attention"),
    "lora, rank 8, attention": AdapterSection(kind="lora", init="kaiming", rank=8, targets="attention"),
    "square, rank 32, all-linear": AdapterSection(kind="square", rank=32, targets="all-linear"),
    "lora, rank 8, all-linear": AdapterSection(kind="lora", init="kaiming", rank=8, targets="all-linear"),
}
BARS = {"square": 1.05, "lora": 1.15}
Run = Callable[[], None]


class FixedRows:
    """Random token rows of one length."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.ids = torch.randint(1000, 20000, (ROWS, TOKENS), generator=draw)
        self.labels = torch.randint(0, 2, (ROWS,), generator=draw)

    def __len__(self) -> int:
        return ROWS

    def batch(self, indices: Sequence[int]) -> Batch:
        """The rows at `indices`."""
        ids = self.ids[list(indices)]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": self.labels[list(indices)]}


class EveryRow:
    """A sample of the same size at every step, so that all contenders do the same work."""

    def draw(self, count: int, _: float) -> list[int]:
        """All rows."""
        return list(range(count))


def home_of(adapter: AdapterSection, steps: int) -> Resident:
    """MiniLM with an adapter, without dropout."""
    home = Resident.build(
        Recipe(
            model=ModelSection(name="minilm", labels=("no", "yes")),
            adapter=adapter,
            training=TrainingSection(steps=steps, batch_size=ROWS, device="cpu"),
            privacy=PrivacySection(unit="example", delta=1e-5, noise_multiplier=1.0, sampling_rate=1.0, clip=CLIP),
        )
    )
    for module in home.loaded.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return home


def by_step(step: LocalStep, home: Resident, rows: FixedRows) -> Run:
    """A round of the product's own local step."""
    share = Assignment("benchmark", 1, home.initial, rows, seed=0)

    def run() -> None:
        next(iter(step.train([share])))

    return run


def by_opacus(mode: str, home: Resident, rows: FixedRows, steps: int) -> Run:
    """The same steps by Opacus' own engine, in one of its modes."""
    from opacus import PrivacyEngine

    parameters = home.attached.parameters()
    made: tuple[Any, ...] = PrivacyEngine().make_private(
        module=home.attached.model.train(),
        optimizer=make_optimizer(parameters, home.recipe.training),
        criterion=nn.CrossEntropyLoss(),
        data_loader=DataLoader(TensorDataset(rows.ids, rows.labels), batch_size=ROWS),
        noise_multiplier=1.0,
        max_grad_norm=CLIP,
        poisson_sampling=False,
        grad_sample_mode=mode,
    )
    model, optimizer = made[0], made[1]
    criterion = made[2] if mode == "ghost" else nn.CrossEntropyLoss()

    def run() -> None:
        for _ in range(steps):
            batch = rows.batch(range(ROWS))
            labels = batch.pop("labels")
            optimizer.zero_grad()
            criterion(model(**batch).logits, labels).backward()
            optimizer.step()

    return run


def contenders(adapter: AdapterSection, steps: int) -> dict[str, Run]:
    """What is measured, each on a model of its own."""
    rows, homes = FixedRows(), [home_of(adapter, steps) for _ in range(4)]
    return {
        "plain": by_step(SequentialStep(homes[0]), homes[0], rows),
        "private": by_step(PrivateStep(homes[1], rows=EveryRow()), homes[1], rows),
        "opacus hooks": by_opacus("hooks", homes[2], rows, steps),
        "opacus ghost": by_opacus("ghost", homes[3], rows, steps),
    }


def measure(runs: dict[str, Run], repeats: int, steps: int) -> dict[str, list[float]]:
    """CPU seconds a step, by contender, one a repeat; the first round of each warms up."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        names = list(runs)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            gc.collect()
            started = time.process_time()
            runs[name]()
            seconds[name].append((time.process_time() - started) / steps)
    return seconds


def lines(title: str, seconds: dict[str, list[float]]) -> list[str]:
    """One line a contender, and whether the bar is met."""
    plain = seconds["plain"]
    said = [f"{title}:"]
    for name, taken in seconds.items():
        ratio = median(own / base for own, base in zip(taken, plain, strict=True))
        said.append(
            f"  {name:<13} {1e3 * min(taken):7.1f} ms a step   {min(taken) / min(plain):5.3f} x of least times   "
            f"{ratio:5.3f} x median of {len(taken)}"
        )
    ratio = min(seconds["private"]) / min(plain)
    bar = BARS[title.partition(",")[0]]
    said.append(f"  bar {bar:.2f} x: {'met' if ratio <= bar else 'MISSED'} by least times ({ratio:.3f} x)")
    return said


def main() -> None:
    """Measure every adapter and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="local steps of a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adapters", default="", help="only those that begin so")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.simplefilter("ignore")
    print(
        f"{asked.threads} threads, {asked.repeats} repeats of {asked.steps} steps, torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )
    for title, adapter in ADAPTERS.items():
        if title.startswith(asked.adapters):
            print("\n".join(lines(title, measure(contenders(adapter, asked.steps), asked.repeats, asked.steps))))


if __name__ == "__main__":
    main()
