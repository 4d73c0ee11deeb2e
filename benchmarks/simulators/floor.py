"""What bounds a case: the matrix products of the frozen model on the tokens that are really there, and nothing else."""

import time
from collections.abc import Mapping

import torch
from torch import nn

from benchmarks.simulators.bare import Bench
from benchmarks.simulators.case import Case
from fedtune.adapters.layers import base_of, dimensions, is_adaptable
from fedtune.data.base import Rows
from fedtune.split.family import family_of
from fedtune.training.forward import IGNORED

TOKENS, SECONDS = 512, 0.2
"""Rows of each measured product, and how long each shape is measured."""
RANKS = 32
"""Smaller sides are an adapter's."""


READS_INPUT = frozenset({"query", "key", "value", "q_proj", "k_proj", "v_proj"})
"""The products of a layer with its own input."""


class Floor:
    """CPU seconds of a client's local step by products alone, one thread; no padding, no attention, no adapters."""

    def __init__(self, case: Case, bench: Bench) -> None:
        self._case = case
        base = bench.model.base_model
        _, layers = family_of(base.config).layers_of(base)
        self._layers = [_linears(layer) for layer in layers]
        self._head = bench.model.get_output_embeddings() if bench.recipe.model.task == "causal-lm" else None
        self._seconds: dict[tuple[int, int], tuple[float, float]] = {}
        counts = [_counts(bench.rows(name)) for name in bench.names]
        self._tokens, self._read = (sum(column) / (case.clients * case.steps) for column in zip(*counts, strict=True))

    def whole(self) -> float:
        """Forward through every layer on all tokens, and back by the input through those with adapters and behind.

        No cache, no head.
        """
        each = [self._one(names, back=n >= self._case.lowest) for n, names in enumerate(self._layers)]
        return self._tokens * sum(each)

    def left(self) -> float:
        """What nothing that is kept can spare: forward and back behind the input of the lowest layer with an adapter.

        In the last layer on the tokens that are read, without keys and values; a causal model's head on these too.
        """
        total = 0.0
        for number in range(self._case.lowest, len(self._layers)):
            last = number == len(self._layers) - 1
            behind = {name: m for name, m in self._layers[number].items() if not _reads_input(name)}
            chosen = behind if last or number == self._case.lowest else self._layers[number]
            total += self._one(chosen, back=True) * (self._read if last else self._tokens)
        return total + (self._one({"": self._head}, back=True) * self._read if self._head is not None else 0.0)

    def _one(self, linears: Mapping[str, nn.Module], *, back: bool) -> float:
        """CPU seconds of one token's way through these, and back."""
        taken = [self._products(linear) for linear in linears.values()]
        return sum(forth + (home if back else 0.0) for forth, home in taken)

    def _products(self, linear: nn.Module) -> tuple[float, float]:
        out, in_ = dimensions(linear)
        if (out, in_) not in self._seconds:
            weight = torch.randn(out, in_)
            self._seconds[out, in_] = _measured(weight.T), _measured(weight)
        return self._seconds[out, in_]


def _linears(layer: nn.Module) -> dict[str, nn.Module]:
    """By name, without an adapter's own."""
    found = {id(base_of(module)): (name, base_of(module)) for name, module in layer.named_modules() if _is_own(module)}
    return {name.removesuffix(".base_layer"): module for name, module in found.values()}


def _is_own(module: nn.Module) -> bool:
    return is_adaptable(base_of(module)) and min(dimensions(module)) > RANKS


def _reads_input(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in READS_INPUT


def _counts(rows: Rows) -> tuple[int, int]:
    """Tokens of some rows, and how many of them the loss reads."""
    batch = rows.batch(range(len(rows)))
    labels = batch["labels"]
    read = len(labels) if labels.ndim == 1 else int((labels[:, 1:] != IGNORED).sum())
    return int(batch["attention_mask"].sum()), read


def _measured(weight: torch.Tensor) -> float:
    """CPU seconds of one row of (TOKENS, n) times (n, m), one thread."""
    x, y = torch.randn(TOKENS, len(weight)), torch.empty(TOKENS, weight.shape[1])
    times: list[float] = []
    begun = time.process_time()
    while len(times) < 4 or time.process_time() - begun < SECONDS:
        before = time.process_time()
        torch.mm(x, weight, out=y)
        times.append(time.process_time() - before)
    return min(times) / TOKENS
