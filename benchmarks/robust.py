"""Robust rules against attackers on real learning: the accuracy on held-out digits after federated training.

    fedtune fetch mnist-5k
    python benchmarks/robust.py [--seeds 2] [--rounds 30]

20 clients hold 4,000 digits of MNIST (14 x 14) under Dirichlet(0.5) label skew and train a small network (196-32-10) by
ten local steps a round. Updates go through the coordinator's validation and the product's aggregators. Every rule is
told the true share of attackers. Percent correct of 1,000 digits, the mean over the seeds; "-" where the rule refuses.
"""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from statistics import mean

import numpy as np
import torch
from torch.nn import functional

from fedtune.aggregation import Contribution, Frame, Global, make_aggregator
from fedtune.aggregation.validate import check_delta
from fedtune.data.locate import read_source
from fedtune.errors import ProtocolError, RunError
from fedtune.recipe import AggregationSection
from fedtune.recipe.data import DataSection, PartitionSection
from fedtune.seeds import generator
from fedtune.state import State
from simulations.attacks import ATTACKS, flip_labels
from simulations.partition import partition

CLIENTS, CLASSES, PIXELS, HIDDEN, TEST_ROWS = 20, 10, 196, 32, 1000
STEPS, BATCH, RATE = 10, 32, 0.3
SHAPES = {"a.bias": (HIDDEN,), "a.weight": (HIDDEN, PIXELS), "b.bias": (CLASSES,), "b.weight": (CLASSES, HIDDEN)}
SIZES = [int(np.prod(shape)) for shape in SHAPES.values()]
SHARES = (0.1, 0.2, 0.3, 0.4)
ATTACKED = ("label-flip", *ATTACKS)

Column = tuple[str, tuple[str, ...]]
SHORT = {
    "mean": "mean",
    "median": "med",
    "trimmed-mean": "trim",
    "geometric-median": "geo",
    "krum": "krum",
    "multi-krum": "mkrum",
    "centred-clipping": "clip",
}
COLUMNS: list[Column] = [
    ("honest", ()),
    *((rule, ()) for rule in SHORT),
    *((rule, ("nnm",)) for rule in SHORT),
    *((rule, ("bucketing",)) for rule in ("median", "geometric-median", "krum", "centred-clipping")),
]
"""(rule, what comes before it); `honest` is the mean of those who do not attack."""


@dataclass(frozen=True)
class Digits:
    """The rows of one seed: features (rows, 196) in [0, 1], labels, who holds which, and the test rows."""

    features: torch.Tensor
    labels: torch.Tensor
    clients: list[torch.Tensor]
    test: torch.Tensor


@cache
def digits(seed: int) -> Digits:
    """Read, cut to 14 x 14, and dealt to the clients."""
    table = read_source("mnist-5k", "train")
    order = torch.randperm(len(table), generator=generator(seed, "test rows"))
    test, train = order[:TEST_ROWS], order[TEST_ROWS:]
    grey = np.stack([np.asarray(image.convert("L")) for image in table["image"]])
    features = functional.avg_pool2d(torch.from_numpy(grey)[:, None].float() / 255, 2).flatten(1)
    labels = torch.tensor([int(label) for label in table["label"]])
    deal = DataSection(partition=PartitionSection(scheme="dirichlet", clients=CLIENTS, alpha=0.5, min_rows=40))
    dealt = partition(table.select(train.tolist()), deal, label="label", seed=seed)
    return Digits(features, labels, [train[rows] for rows in dealt], test)


def named(flat: torch.Tensor) -> State:
    """The tensors of a flat state."""
    parts = torch.split(flat, SIZES)
    return {name: part.reshape(shape) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}


def logits(flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(K, d) states and (K, n, 196) rows to (K, n, 10)."""
    a_bias, a, b_bias, b = (
        part.reshape(-1, *shape) for part, shape in zip(torch.split(flat, SIZES, dim=1), SHAPES.values(), strict=True)
    )
    hidden = torch.relu(torch.baddbmm(a_bias[:, None], x, a.transpose(1, 2)))
    return torch.baddbmm(b_bias[:, None], hidden, b.transpose(1, 2))


def train(state: torch.Tensor, data: Digits, labels: torch.Tensor, seed: int, round_: int) -> torch.Tensor:
    """What every client's local steps change: (K, d); all clients at once, each on its own rows."""
    flat = state.expand(CLIENTS, -1).clone().requires_grad_()
    draw = generator(seed, "batches", round_=round_)
    picked = [rows[torch.randint(len(rows), (STEPS, BATCH), generator=draw)] for rows in data.clients]
    for batch in torch.stack(picked, dim=1):
        wrong = functional.cross_entropy(logits(flat, data.features[batch]).flatten(0, 1), labels[batch].flatten())
        (gradient,) = torch.autograd.grad(wrong * CLIENTS, flat)
        flat = (flat - RATE * gradient).detach().requires_grad_()
    return flat.detach() - state


def poisoned(attack: str, deltas: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
    """What arrives when the first `count` clients attack."""
    if attack not in ATTACKS or not count:
        return deltas
    return torch.cat([ATTACKS[attack](deltas[count:], deltas[:count], draw), deltas[count:]])


def validated(rows: torch.Tensor, first: int, section: AggregationSection) -> list[Contribution]:
    """The updates that the coordinator's validation lets through, from client `first` on."""
    passed = []
    for client in range(first, CLIENTS):
        delta = named(rows[client])
        try:
            check_delta(delta, SHAPES, section)
        except ProtocolError:
            continue
        passed.append(Contribution(f"client-{client:02}", delta, 1.0))
    return passed


def accuracy(column: Column, attack: str, share: float, seed: int, rounds: int) -> float | None:
    """Percent correct after training; None where the rule refuses so many attackers."""
    torch.set_num_threads(1)
    rule, before = column
    data, count = digits(seed), round(share * CLIENTS)
    labels = data.labels.clone()
    if attack == "label-flip" and count:
        cheating = torch.cat(data.clients[:count])
        labels[cheating] = flip_labels(labels[cheating], CLASSES)
    section = AggregationSection.model_validate(
        {"rule": "mean" if rule == "honest" else rule, "before_rule": before, "attackers": share or 0.2}
    )
    frame = Frame("peft", SHAPES, {}, 0, {}, 1.0, seed, lambda _state: {})
    start = [0.1 * torch.randn(shape, generator=generator(seed, name)) for name, shape in SHAPES.items()]
    world = Global(dict(zip(SHAPES, start, strict=True)))
    for round_ in range(rounds):
        flat = torch.cat([world.state[name].flatten() for name in SHAPES])
        deltas = train(flat, data, labels, seed, round_)
        sent = poisoned(attack, deltas, count, generator(seed, attack, round_=round_))
        aggregator = make_aggregator(section, frame)
        aggregator.begin(world, round_)
        for contribution in validated(sent, count if rule == "honest" else 0, section):
            aggregator.add(contribution)
        try:
            world = aggregator.finish()
        except RunError as refusal:
            if "no update was added" in str(refusal):  # The model has left what fp32 holds.
                break
            return None
    found = logits(torch.cat([world.state[name].flatten() for name in SHAPES])[None], data.features[data.test][None])
    return 100 * (found[0].argmax(dim=1) == data.labels[data.test]).float().mean().item()


def header() -> str:
    groups = f"{'':<20}{'':>6}{'| as they come':<44}{'| after NNM':<44}{'| after buckets of 2':<24}"
    return groups + "\n" + f"{'':<20}" + "".join(f"{SHORT.get(rule, rule):>6}" for rule, _ in COLUMNS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    started = time.perf_counter()
    lines = [("no attack", "none", 0.0)] + [
        (f"{attack} {100 * share:.0f} %", attack, share) for attack, share in product(ATTACKED, SHARES)
    ]
    print(f"seeds 0 to {options.seeds - 1}, {options.rounds} rounds, {sum(SIZES):,} parameters, chance 10 %")
    print(header())
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        futures = {
            (name, column): [
                pool.submit(accuracy, column, attack, share, seed, options.rounds) for seed in range(options.seeds)
            ]
            for (name, attack, share), column in product(lines, COLUMNS)
        }
        for name, _, _ in lines:
            cells = [[future.result() for future in futures[name, column]] for column in COLUMNS]
            shown = [f"{mean(known):.0f}" if (known := [c for c in cell if c is not None]) else "-" for cell in cells]
            print(f"{name:<20}" + "".join(f"{cell:>6}" for cell in shown), flush=True)
    print(f"{len(futures) * options.seeds} trainings in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
