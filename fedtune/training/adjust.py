"""What is done to a client's gradients before they are clipped: FedProx, SCAFFOLD, the slots of a smaller rank."""

from collections.abc import Callable, Mapping

import torch

from fedtune.adapters.slots import Axes, mask
from fedtune.training.base import Assignment

Adjust = Callable[[], None]
"""Changes the gradients of the trained tensors in place; a tensor without one is left out."""
Change = Callable[[list[str], list[torch.Tensor]], None]
"""The same for these names and gradients, of which there is one at least."""


def is_adjusted(assignment: Assignment, *, proximal: float) -> bool:
    """May there be anything to do?"""
    return bool(proximal or assignment.correction or assignment.slots is not None)


def adjustments(
    parameters: Mapping[str, torch.Tensor], assignment: Assignment, axes: Axes, *, proximal: float
) -> list[Adjust]:
    """What has to be done at every step, in order; empty where nothing is set.

    `parameters` are the trained tensors with the values that the client starts from. The slots come last: whatever is
    added, nothing is left outside of them.
    """
    made: list[Adjust] = []
    if proximal:
        made.append(_adjust(parameters, _pull(parameters, proximal)))
    if corrected := {name: parameters[name] for name in assignment.correction if name in parameters}:
        made.append(_adjust(corrected, _correct(corrected, assignment.correction)))
    if assignment.slots is not None and (inside := {n: p for n, p in parameters.items() if axes.get(n)}):
        made.append(_adjust(inside, _confine(inside, assignment, axes)))
    return made


def _adjust(parameters: Mapping[str, torch.Tensor], change: Change) -> Adjust:
    def adjust() -> None:
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        if gradients:
            with torch.no_grad():
                change(list(gradients), list(gradients.values()))

    return adjust


def _pull(parameters: Mapping[str, torch.Tensor], proximal: float) -> Change:
    """Adds μ·(w − w_start): the gradient of FedProx's (μ/2)·‖w − w_start‖² (arXiv 1812.06127, equation 2)."""
    starts = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def change(names: list[str], gradients: list[torch.Tensor]) -> None:
        away = torch._foreach_sub([parameters[name] for name in names], [starts[name] for name in names])
        torch._foreach_add_(gradients, away, alpha=proximal)

    return change


def _correct(parameters: Mapping[str, torch.Tensor], correction: Mapping[str, torch.Tensor]) -> Change:
    """Adds SCAFFOLD's c − cₖ (arXiv 1910.06378, algorithm 1)."""
    added = {name: correction[name].to(parameter) for name, parameter in parameters.items()}

    def change(names: list[str], gradients: list[torch.Tensor]) -> None:
        torch._foreach_add_(gradients, [added[name] for name in names])

    return change


def _confine(parameters: Mapping[str, torch.Tensor], assignment: Assignment, axes: Axes) -> Change:
    """Zeroes what lies outside of the slots; tensors without slots are everybody's."""
    # In full shape: torch multiplies two lists in one go only where nothing is broadcast.
    masks = {
        name: mask(tuple(parameter.shape), axes[name], assignment.slots).expand(parameter.shape).to(parameter)
        for name, parameter in parameters.items()
    }

    def change(names: list[str], gradients: list[torch.Tensor]) -> None:
        torch._foreach_mul_(gradients, [masks[name] for name in names])

    return change
