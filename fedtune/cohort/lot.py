"""Several clients' local steps side by side: every client that has steps left takes its next one in each tick."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from fedtune.cohort.group import Item, fill
from fedtune.cohort.losses import client_losses
from fedtune.cohort.optimizer import COHORT_OPTIMIZERS, clip_rows
from fedtune.cohort.outcomes import Outcome
from fedtune.cohort.place import in_place
from fedtune.cohort.works import Works
from fedtune.seeds import generator
from fedtune.state import State
from fedtune.training.adjust import Adjust, adjustments, is_adjusted
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.forward import count_targets
from fedtune.training.loop import FINITE_EVERY, diverged
from fedtune.training.mode import in_mode
from fedtune.training.order import Step, count_steps, local_steps
from fedtune.training.schedule import rate_factor
from fedtune.training.trained import is_trained


def train_lot(works: Works, lot: Sequence[Assignment]) -> list[Outcome]:
    """One outcome a client, in order, of clients that train the same tensors on the same base weights.

    Each has a step to take at least. Guarantees: a client's outcome depends on its assignment alone, up to rounding;
    one that diverges is left out of the passes that follow, and touches no other. Raises what is not known to be one
    client's fault: then nothing has become of any of them.
    """
    started = perf_counter()
    resident = works.resident
    with resident.lock:
        resident.attached.shift_to(lot[0].shift)
        works.forward.begin(lot[0].shift)
        course = _Course(works, lot)
        with in_place(resident.attached.model, works.layers), in_mode(resident.attached.model, training=True):
            while course.tick():
                pass
        return course.outcomes(started)


@dataclass(slots=True)
class _Client:
    """How far one client is."""

    row: int
    assignment: Assignment
    total: int
    steps: Iterator[Step]
    adjusting: list[Adjust]
    rates: list[float]
    """The sum of each group's rates so far."""
    coins: torch.Generator | None
    """Draws the seeds of its rows' dropout; None where nothing is dropped."""
    done: int = 0
    error: Exception | None = None


class _Course:
    """The way of a lot through its steps."""

    def __init__(self, works: Works, lot: Sequence[Assignment]) -> None:
        self._works, self._resident = works, works.resident
        self._training = self._resident.recipe.training
        self._stacks = works.stack(lot)
        self._optimizer = COHORT_OPTIMIZERS[self._training.optimizer](self._stacks, self._training)
        self._losses_K = torch.zeros(len(lot), device=self._resident.device)
        self._clients = [self._client(row, assignment) for row, assignment in enumerate(lot)]

    def _client(self, row: int, assignment: Assignment) -> _Client:
        training, rows = self._training, len(assignment.rows)
        steered = self._stacks.steered(row) if is_adjusted(assignment, proximal=training.proximal) else {}
        return _Client(
            row,
            assignment,
            total=count_steps(rows, training),
            steps=local_steps(rows, training, assignment.seed),
            adjusting=adjustments(steered, assignment, self._resident.attached.axes(), proximal=training.proximal),
            rates=[0.0] * len(self._stacks.columns.groups),
            coins=generator(assignment.seed, "dropout") if self._works.drops else None,
        )

    def tick(self) -> bool:
        """One step of every client that has one left; False where there is none."""
        active = [client for client in self._clients if client.error is None and client.done < client.total]
        if not active:
            return False
        self._stacks.gradients_KQ.zero_()
        items = [item for client in active for item in self._items(client)]
        for chosen in fill(items, self._works.most_tokens):
            self._pass(chosen)
        learning = {item.client for item in items}
        factors = {client.row: self._factor(client) for client in active if client.row in learning}
        for client in active:
            for adjust in client.adjusting if client.row in learning else ():
                adjust()
        if self._training.max_grad_norm is not None:
            clip_rows(self._stacks.gradients_KQ, self._training.max_grad_norm)
        self._optimizer.step(factors)
        self._count(active)
        return True

    def _items(self, client: _Client) -> list[Item]:
        """The batches of a client's next step that have something to predict."""
        rows = client.assignment.rows
        batches = [
            (indices, self._count_targets(client, indices), _seeds(client.coins, len(indices)))
            for indices in next(client.steps)
        ]
        targets = sum(count for _, count, _ in batches)
        items = []
        for indices, count, seeds in batches:
            if count:
                tokens = self._works.forward.tokens((rows, indices))
                items.append(Item(client.row, (rows, indices), sum(tokens), max(tokens), targets, seeds))
        return items

    def _count_targets(self, client: _Client, indices: list[int]) -> int:
        if self._resident.recipe.model.task != "causal-lm":
            return len(indices)
        return count_targets(client.assignment.rows.batch(indices))

    def _pass(self, items: Sequence[Item]) -> None:
        """Add to the clients' gradients and losses what one pass over these batches brings."""
        clients = [item.client for item in items]
        leaves = self._works.lane.tensors = self._stacks.leaves(clients)
        seeds = [seed for item in items for seed in item.seeds]
        predicted = self._works.forward.logits([item.part for item in items], seeds)
        losses = client_losses(predicted, [len(item.part[1]) for item in items], [item.targets for item in items])
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self._stacks.collect(clients, leaves)
        index = torch.tensor(clients, device=losses.device)
        self._losses_K.index_add_(0, index, losses.detach().float())

    def _factor(self, client: _Client) -> float:
        training = self._training
        return rate_factor(training.schedule, client.done, client.total, training.warmup_fraction)

    def _count(self, active: Sequence[_Client]) -> None:
        """Count the step; look at the losses now and then, for each look waits for the device."""
        for client in active:
            factor = self._factor(client)
            for position, group in enumerate(self._stacks.columns.groups):
                client.rates[position] += factor * group.peak_rate
            client.done += 1
        looked_at = [c for c in active if c.done % FINITE_EVERY == 0 or c.done == c.total]
        if looked_at:
            finite = self._losses_K.isfinite().tolist()
            for client in looked_at:
                if not finite[client.row]:
                    client.error = diverged(self._resident, client.assignment, "loss is", client.done)

    def outcomes(self, started: float) -> list[Outcome]:
        """What has become of each; the time is shared out evenly."""
        losses = self._losses_K.tolist()
        states = [self._works.read(self._stacks, client.row) for client in self._clients]
        seconds = (perf_counter() - started) / len(states)
        return [
            client.error or self._outcome(client, state, losses[client.row] / client.total, seconds)
            for client, state in zip(self._clients, states, strict=True)
        ]

    def _outcome(self, client: _Client, state: State, loss: float, seconds: float) -> Outcome:
        if not bool(torch.cat([tensor.flatten() for tensor in state.values()]).isfinite().all()):
            return diverged(self._resident, client.assignment, "weights are", client.total)
        groups = zip(self._stacks.columns.groups, client.rates, strict=True)
        moved = {name: rate for group, rate in groups for name in group.names}
        assignment = client.assignment
        rates = {name: moved.get(name, 0.0) for name in state if is_trained(name, assignment)}
        metrics = {"loss": loss, "steps": float(client.total), "seconds": seconds}
        return LocalResult(assignment.client, state, len(assignment.rows), rates, metrics)


def _seeds(coins: torch.Generator | None, rows: int) -> tuple[int, ...]:
    return () if coins is None else tuple(torch.randint(2**63 - 1, (rows,), generator=coins).tolist())
