"""One client's private steps: sample, clip, sum, noise, and what a plain step does with the gradient after that."""

from collections.abc import Mapping

import torch
from torch import nn

from fedtune.adapters.slots import Axes, mask
from fedtune.data.base import Rows
from fedtune.privacy.clipping import Gradients
from fedtune.state import State
from fedtune.training.adjust import adjustments
from fedtune.training.base import Assignment
from fedtune.training.optimizer import RateSum, make_optimizer, set_rate
from fedtune.training.order import slices
from fedtune.training.private_gradients import ExampleGradients
from fedtune.training.private_mechanism import Mechanism
from fedtune.training.resident import Resident
from fedtune.training.schedule import rate_factor


def take_private_steps(
    resident: Resident,
    assignment: Assignment,
    mechanism: Mechanism,
    parameters: Mapping[str, nn.Parameter],
    gradients: ExampleGradients,
) -> dict[str, float]:
    """All private steps of a round; returns the sums of the learning rates by name.

    Guarantees: the parameters see a row through `mechanism.release` alone; there are as many steps, each with its
    noise, whatever the rows are, none at all included. Schedule and optimiser are those of a plain step; FedProx's pull
    and the slots work on what was released.
    """
    training = resident.recipe.training
    optimizer = make_optimizer(parameters, training)
    axes = resident.attached.axes()
    adjusting = adjustments(parameters, assignment, axes, proximal=training.proximal)
    summing = _Summing(mechanism, parameters, gradients, training.batch_size, masks(parameters, assignment, axes))
    rates = RateSum(optimizer)
    try:
        for done in range(mechanism.steps):
            set_rate(optimizer, rate_factor(training.schedule, done, mechanism.steps, training.warmup_fraction))
            rates.add()
            for name, gradient in mechanism.release(summing.over(assignment.rows)).items():
                parameters[name].grad = gradient.to(parameters[name].device)
            for adjust in adjusting:
                adjust()
            optimizer.step()
    finally:
        optimizer.zero_grad(set_to_none=True)
    return rates.by_name()


class _Summing:
    """The sum of clipped gradients over a fresh sample of rows, `batch_size` of them in memory at a time.

    How many are in memory changes nothing beyond rounding: each row is clipped by itself, and sums are taken in double
    precision. Outside of a client's slots gradients are zeroed before they are clipped, for they are not used.
    """

    def __init__(
        self,
        mechanism: Mechanism,
        parameters: Mapping[str, nn.Parameter],
        gradients: ExampleGradients,
        batch_size: int,
        masks: Mapping[str, torch.Tensor],
    ) -> None:
        self._mechanism = mechanism
        self._shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        self._gradients = gradients
        self._batch_size = batch_size
        self._masks = masks

    def over(self, rows: Rows) -> State:
        """One step's sum, float64; zeros where no row was drawn: the model is not asked then."""
        total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in self._shapes.items()}
        for indices in slices(self._mechanism.draw(len(rows)), self._batch_size):
            found = self._confined(self._gradients.of(rows.batch(indices)).gradients)
            for name, part in self._mechanism.clipped(found).items():
                total[name] += part
        return total

    def _confined(self, found: Gradients) -> Gradients:
        for name, inside in self._masks.items():
            found[name] *= inside
        return found


def masks(parameters: Mapping[str, torch.Tensor], assignment: Assignment, axes: Axes) -> dict[str, torch.Tensor]:
    """What gradients are multiplied by before they are clipped, by name: zero outside of the client's slots."""
    if assignment.slots is None:
        return {}
    return {
        name: mask(tuple(parameter.shape), axes[name], assignment.slots).to(parameter.device)
        for name, parameter in parameters.items()
        if axes.get(name)
    }
