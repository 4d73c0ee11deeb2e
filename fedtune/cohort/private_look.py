"""Does a shared pass keep rows apart? Looked at before the first private steps that rely on it."""

from dataclasses import replace

import torch

from fedtune.cohort.passes import pass_for
from fedtune.cohort.place import in_place
from fedtune.cohort.room import Room
from fedtune.cohort.row_gradients import row_gradients, row_items
from fedtune.cohort.stacks import Stacks
from fedtune.cohort.works import Works
from fedtune.errors import TrainingError
from fedtune.training.base import Assignment
from fedtune.training.private_checks import LEAST_LOSS, TOLERANCE
from fedtune.training.private_loss import example_losses


class RowsMixError(TrainingError):
    """A row's gradient out of a shared pass is not the one that the row has alone."""


def look_apart(works: Works, stacks: Stacks, client: int, assignment: Assignment) -> bool:
    """Compare the gradients of two rows that share a pass with those of each alone, by the model's own forward pass.

    The model is in evaluation mode, its own layers are in place, the client's untrained tensors require no gradient.
    In full precision. False where there are no two rows, or their losses are too small to tell. Raises RowsMixError
    where there is a difference: a row is seen in the other's gradient, or part of its own is missed.
    """
    alone = _alone(works, stacks, assignment)
    if alone is None:
        return False
    exact = works
    if works.resident.bf16:
        resident = replace(works.resident, bf16=False)
        exact = replace(works, resident=resident, forward=pass_for(resident, works.lane, Room(memory_bytes=0)))
        exact.forward.begin(assignment.shift)
    with in_place(works.resident.attached.model, works.layers):
        together = row_gradients(exact, stacks, row_items(exact, client, assignment.rows, [0, 1]))
    for name, found in together.items():
        limit = float(TOLERANCE * found.flatten(1).norm(dim=1).sum())
        if any(not float((found[i] - own[name]).norm()) <= limit for i, own in enumerate(alone)):
            raise RowsMixError(f"the gradient of one row at {name!r} is not the same beside another row")
    return True


def _alone(works: Works, stacks: Stacks, assignment: Assignment) -> list[dict[str, torch.Tensor]] | None:
    """The gradients of the first two rows, each in a batch of its own; None where they cannot tell."""
    if len(assignment.rows) < 2:
        return None
    attached = works.resident.attached
    resident = replace(works.resident, bf16=False, call=attached.model)
    attached.load(assignment.state)
    parameters = attached.parameters()
    trained = {name: parameters[name] for name in stacks.columns.names}
    found = []
    for index in (0, 1):
        loss = example_losses(resident, assignment.rows.batch([index])).sum()
        if not bool(loss > LEAST_LOSS):
            return None
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
        found.append(dict(zip(trained, gradients, strict=True)))
    return found
