"""Model soups (arXiv 2203.05482): the average of several trained adapters in weight space, which is what is run.

Where ΔW is linear in the state (`square`, `ravan`, `lora` with a frozen A) the mean of the states is the mean of the
ΔW. The mean of LoRA's factors is not: there the mean of the ΔW goes into the shift, and the adapter starts from zero
again. Of methods of `peft` the states are averaged, whatever they do with them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from fedtune.adapters.shift import NO_SHIFT, Shift, dense_of, modules_of
from fedtune.aggregation.base import Frame, Global
from fedtune.aggregation.stack import increment, stack
from fedtune.errors import RunError
from fedtune.state import State

Score = Callable[[Global], float]
"""How good a world is; higher is better."""
Factored = tuple[torch.Tensor, torch.Tensor]
"""(A, B) of a product B·A."""


def uniform(worlds: Sequence[Global], frame: Frame) -> Global:
    """The average of all; one alone is itself.

    Guarantees: but for `peft` the soup's ΔW, shift and product, is the mean of the ΔW to fp32 rounding. The memory of a
    server optimiser and SCAFFOLD's control variate are left out: a soup is not trained on. Raises RunError for none.
    """
    if not worlds:
        raise RunError("a soup needs at least one trained adapter; keep more checkpoints")
    if len(worlds) == 1:
        return worlds[0]
    state = {name: _mean([world.state[name] for world in worlds]) for name in worlds[0].state}
    if frame.form == "lora":
        state |= {name: worlds[0].state[name] for name in _names(frame, "lora_A")}
        state |= {name: torch.zeros_like(worlds[0].state[name]) for name in _names(frame, "lora_B")}
    return replace(worlds[0], state=state, shift=_shift(worlds, frame), control={}, memory={})


def greedy(worlds: Sequence[Global], frame: Frame, score: Score) -> Global:
    """The average of those that help: each in turn, best first, stays in where the soup's score does not fall.

    Guarantees: the soup scores at least what the first of `worlds` does. Raises RunError for none.
    """
    chosen, soup = list(worlds[:1]), uniform(worlds[:1], frame)
    best = score(soup)
    for world in worlds[1:]:
        candidate = uniform([*chosen, world], frame)
        if (value := score(candidate)) >= best:
            chosen, soup, best = [*chosen, world], candidate, value
    return soup


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).float()


def _names(frame: Frame, side: str) -> list[str]:
    return [f"{module}.{side}" for module in frame.modules]


def _shift(worlds: Sequence[Global], frame: Frame) -> Shift:
    """The mean of the shifts; of `lora` the mean of the products is added."""
    same = len({world.shift.key for world in worlds}) == 1
    products = [frame.products(world.state) if frame.form == "lora" else {} for world in worlds]
    change: State = {}
    for module in frame.modules:
        shifts = [] if same else [w.shift.tensors for w in worlds if module in modules_of(w.shift.tensors)]
        factored = [found[module] for found in products if module in found]
        change |= _mean_change(module, shifts, factored, len(worlds))
    return (worlds[0].shift if same else NO_SHIFT).then(change)


def _mean_change(module: str, shifts: Sequence[State], products: Sequence[Factored], count: int) -> State:
    """What to add to a weight for these shifts and products (A, B), each counted 1/count; dense where a shift is."""
    terms = [(b / count, a) for a, b in products]
    dense = []
    for tensors in shifts:
        if f"{module}.D" in tensors:
            dense.append(dense_of(tensors, module) / count)
        else:
            terms.append((tensors[f"{module}.U"].double() / count, tensors[f"{module}.V"].double()))
    if not dense:
        return increment(module, stack(terms))
    return {f"{module}.D": sum((u @ v for u, v in terms), start=torch.stack(dense).sum(dim=0)).float()}
