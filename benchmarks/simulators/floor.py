"""What bounds a case: the matrix products of the frozen model on the tokens that are really there, and nothing else."""

import time

import torch
from torch import nn

from benchmarks.simulators.bare import Bench
from benchmarks.simulators.case import Case
from fedtune.adapters.layers import base_of, dimensions, is_adaptable
from fedtune.split.family import family_of

TOKENS, SECONDS = 512, 0.2
"""Rows of each measured product, and how long each shape is measured."""


def floor_cpu_s(case: Case, bench: Bench) -> float:
    """CPU seconds of one local step of one client, by products alone.

    Forward through every layer, and back by the input through those with adapters and behind. No cache, no padding, no
    attention, no head.
    """
    base = bench.model.base_model
    _, layers = family_of(base.config).layers_of(base)
    seconds: dict[tuple[int, int], float] = {}
    total = 0.0
    for number, layer in enumerate(layers):
        for out, in_ in map(dimensions, _linears(layer)):
            if (out, in_) not in seconds:
                seconds[out, in_] = _product(out, in_)
            total += seconds[out, in_] * (2 if number >= case.lowest else 1)
    return total * _tokens(case, bench) / TOKENS


def _linears(layer: nn.Module) -> list[nn.Module]:
    return [
        module for module in dict.fromkeys(map(base_of, layer.modules())) if is_adaptable(module) and not _small(module)
    ]


def _small(module: nn.Module) -> bool:
    """Is it an adapter's own?"""
    return min(dimensions(module)) <= 32


def _product(out: int, in_: int) -> float:
    """CPU seconds of (TOKENS, in) times (in, out), one thread."""
    x, weight = torch.randn(TOKENS, in_), torch.randn(out, in_)
    times, begun = [], time.process_time()
    with torch.no_grad():
        while time.process_time() - begun < SECONDS:
            before = time.process_time()
            x @ weight.T
            times.append(time.process_time() - before)
    return min(times)


def _tokens(case: Case, bench: Bench) -> float:
    """Real tokens of a local step, the mean over clients."""
    total = sum(int(bench.rows(name).lengths.sum()) for name in bench.names)  # type: ignore[attr-defined]
    return total / (case.clients * case.steps)
