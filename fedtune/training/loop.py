"""One client's local steps: optimiser, schedule, accumulation, corrections and clipping over its own rows."""

from collections.abc import Callable, Mapping
from time import perf_counter

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from fedtune.adapters.check import check_same_tensors
from fedtune.data.base import Batch
from fedtune.errors import TrainingError
from fedtune.seeds import derive_seed
from fedtune.state import State, copy_state, shapes_of
from fedtune.training.adjust import adjustments
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.forward import count_targets, forward
from fedtune.training.memory import within_memory
from fedtune.training.mode import in_mode
from fedtune.training.optimizer import RateSum, make_optimizer, set_rate
from fedtune.training.order import count_steps, local_steps
from fedtune.training.randomness import seeded
from fedtune.training.resident import Resident
from fedtune.training.schedule import rate_factor
from fedtune.training.trained import is_trained, only_trained

FINITE_EVERY = 16
"""Local steps between two looks at the loss: each look waits for the device."""
Outcome = tuple[State, dict[str, float], dict[str, float]]
"""The state after training, the sums of the learning rates by name, and metrics."""
Accumulate = Callable[[Resident, list[Batch]], torch.Tensor]
"""Adds the gradient of the mean loss over all targets of some batches; returns that loss, on the device."""
Stepped = Callable[[float, bool], None]
"""Hears of each optimiser step: its share of the peak rates, and whether it is the last."""
SMALLER = "lower training.batch_size and raise training.accumulate, or set training.gradient_checkpointing = true"


def accumulate_gradient(resident: Resident, batches: list[Batch]) -> torch.Tensor:
    """Add the gradient of the mean loss over all targets of `batches`; returns that loss, on the device.

    Each pass is weighted by its rows or answer tokens, so that the gradient is that of one large batch. A pass with
    nothing to predict is left out.
    """
    counts = [count_targets(batch) for batch in batches]
    mean = torch.zeros((), device=resident.device)
    for batch, count in zip(batches, counts, strict=True):
        if count:
            loss = forward(resident, batch).loss * (count / sum(counts))
            loss.backward()
            mean += loss.detach()
    return mean


def _alone(_factor: float, _last: bool) -> None:
    """Nobody else steps."""


def train_client(
    resident: Resident,
    assignment: Assignment,
    accumulate: Accumulate = accumulate_gradient,
    stepped: Stepped = _alone,
) -> LocalResult:
    """Train one client on the resident model; each optimiser step's gradient is `accumulate`'s, `stepped` hears of it.

    Guarantees: the result depends on the assignment and the recipe alone; torch's random state and the model's
    mode are afterwards what they were before, and no gradient is left. What the client does not train is bit for bit
    what it was given, and the zeros outside of its slots stay zeros. Raises TrainingError where the loss is not
    finite or the memory does not suffice, AdapterError where the state or the shift does not fit the adapter.
    """
    started = perf_counter()
    total = 0 if assignment.trained == () else count_steps(len(assignment.rows), resident.recipe.training)
    if total:
        state, moved, metrics = _train(resident, assignment, total, accumulate, stepped)
    else:
        state, moved, metrics = _leave(resident, assignment)
    metrics |= {"steps": float(total), "seconds": perf_counter() - started}
    rates = {name: moved.get(name, 0.0) for name in state if is_trained(name, assignment)}
    return LocalResult(assignment.client, state, len(assignment.rows), rates, metrics)


def _leave(resident: Resident, assignment: Assignment) -> Outcome:
    """A client without steps hands back what it was given; the model is not touched."""
    check_same_tensors(shapes_of(assignment.state), resident.shapes(), what="the adapter state")
    return copy_state(assignment.state), {}, {}


def _train(resident: Resident, assignment: Assignment, total: int, accumulate: Accumulate, stepped: Stepped) -> Outcome:
    dropout = derive_seed(assignment.seed, "dropout")
    with resident.lock:
        resident.attached.shift_to(assignment.shift)
        resident.attached.load(assignment.state)
        with (
            only_trained(resident.attached.parameters(), assignment) as parameters,
            in_mode(resident.attached.model, training=True),
            seeded(resident.device, dropout),
            within_memory(resident.device, advice=SMALLER),
        ):
            loss, rates = _take_steps(resident, assignment, parameters, total, accumulate, stepped)
        state = resident.attached.read()
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise diverged(resident, assignment, "weights are", total)
    return state, rates, {"loss": loss}


def _take_steps(
    resident: Resident,
    assignment: Assignment,
    parameters: Mapping[str, nn.Parameter],
    total: int,
    accumulate: Accumulate,
    stepped: Stepped,
) -> tuple[float, dict[str, float]]:
    """All local steps; returns the mean of the steps' losses, and the sums of their learning rates by name."""
    training, rows = resident.recipe.training, assignment.rows
    optimizer = make_optimizer(parameters, training)
    adjusting = adjustments(parameters, assignment, resident.attached.axes(), proximal=training.proximal)
    rates = RateSum(optimizer)
    loss_sum = torch.zeros((), device=resident.device)
    try:
        for done, step in enumerate(local_steps(len(rows), training, assignment.seed)):
            optimizer.zero_grad(set_to_none=True)
            factor = rate_factor(training.schedule, done, total, training.warmup_fraction)
            set_rate(optimizer, factor)
            rates.add()
            loss_sum += accumulate(resident, [rows.batch(indices) for indices in step])
            for adjust in adjusting:
                adjust()
            if training.max_grad_norm is not None:
                clip_grad_norm_(parameters.values(), training.max_grad_norm)
            stepped(factor, done + 1 == total)
            optimizer.step()
            if (done + 1) % FINITE_EVERY == 0 or done + 1 == total:
                _require_finite(loss_sum, resident, assignment, done + 1)
    finally:
        optimizer.zero_grad(set_to_none=True)
    return float(loss_sum) / total, rates.by_name()


def _require_finite(loss_sum: torch.Tensor, resident: Resident, assignment: Assignment, steps: int) -> None:
    if not bool(loss_sum.isfinite()):
        raise diverged(resident, assignment, "loss is", steps)


def diverged(resident: Resident, assignment: Assignment, what: str, steps: int) -> TrainingError:
    """What is said where a client's numbers are not finite: `what` names them, with a verb."""
    return TrainingError(
        f"{assignment.client}: the {what} not finite after {steps} local step{'s' * (steps != 1)}; "
        f"lower training.lr (now {resident.recipe.training.lr:g})."
    )
