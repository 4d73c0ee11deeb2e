"""SCAFFOLD's control variate on the client's side (arXiv 1910.06378, algorithm 1, option II).

A client's variate cₖ is the mean gradient that it met in its last round; c is the mean of them all. Steps along
g − cₖ + c go where the federation goes, however many are taken. The optimum that is found is that of the unweighted
mean of the clients' losses, whatever the weights of the aggregation.
"""

from collections.abc import Mapping

import torch

from fedtune.state import State

Tensors = Mapping[str, torch.Tensor]


def control_change(
    own: Tensors, control: Tensors, start: Tensors, end: Tensors, rates: Mapping[str, float]
) -> tuple[State, State]:
    """The client's variate after a round, cₖ⁺ = cₖ − c + (x_start − x_end) / Σ learning rates, and its change.

    `own` and `control` are cₖ and c before the round; a name that they lack is zero there. The variate comes with all
    names of `own`, `control` and `rates`, the change with those of `rates`. A tensor whose rates sum to zero took no
    step: its variate stays. Computed in double precision, given in fp32.
    """
    after = {name: _of(own, name, start).float() for name in sorted({*own, *control, *rates})}
    change: State = {}
    for name, rate in sorted(rates.items()):
        before = _of(own, name, start)
        if rate:
            met = (start[name].double() - end[name].double()) / rate
            after[name] = (before - _of(control, name, start) + met).float()
        change[name] = (after[name].double() - before).float()
    return after, change


def _of(tensors: Tensors, name: str, start: Tensors) -> torch.Tensor:
    """A tensor in double precision; zeros in the shape of the start where it is missing."""
    found = tensors.get(name)
    return torch.zeros_like(start[name], dtype=torch.float64) if found is None else found.double()
