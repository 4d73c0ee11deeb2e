"""Several clients' private steps side by side: their rows share passes, and nothing else.

arXiv 1607.00133; the steps are those of `fedtune.training.private_loop`, with gradients by row from shared passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch

from fedtune.cohort.group import Item, fill
from fedtune.cohort.optimizer import COHORT_OPTIMIZERS
from fedtune.cohort.outcomes import Outcome
from fedtune.cohort.place import in_place
from fedtune.cohort.private_look import look_apart
from fedtune.cohort.row_gradients import row_gradients, row_items
from fedtune.cohort.stacks import Stacks
from fedtune.cohort.works import Works, most_copies
from fedtune.errors import PrivacyError, TrainingError
from fedtune.state import State
from fedtune.training.adjust import Adjust, adjustments
from fedtune.training.base import Assignment, LocalResult
from fedtune.training.mode import in_mode
from fedtune.training.order import slices
from fedtune.training.private import check_finite
from fedtune.training.private_checks import Marks, private_layers
from fedtune.training.private_loop import masks
from fedtune.training.private_mechanism import Mechanism
from fedtune.training.schedule import rate_factor
from fedtune.training.trained import is_trained, only_trained


@dataclass(slots=True)
class PrivateWorks:
    """What a cohort takes private steps with."""

    works: Works
    mechanism: Mechanism
    seen_apart: bool = False
    """Has it been seen that shared passes keep rows apart?"""


def train_private_lot(private: PrivateWorks, lot: Sequence[Assignment]) -> list[Outcome]:
    """One outcome a client, in order, of clients that train the same tensors on the same base weights.

    Guarantees: those of `fedtune.training.private.PrivateStep`, for every client by itself. Raises PrivacyError where
    the model or the adapter is not fit for private steps, or a tensor changed that is not trained: then nothing of any
    client may be sent. Raises RowsMixError where passes do not keep rows apart, and what is not known to be one
    client's fault.
    """
    works = private.works
    resident, model = works.resident, works.resident.attached.model
    with resident.lock:
        resident.attached.shift_to(lot[0].shift)
        works.forward.begin(lot[0].shift)
        with only_trained(resident.attached.parameters(), lot[0]) as parameters, in_mode(model, training=False):
            private_layers(model, parameters)
            marks = Marks(model, resident.attached.parameters())
            try:
                outcomes = _train(private, lot)
            finally:
                marks.check()
            return outcomes


def _train(private: PrivateWorks, lot: Sequence[Assignment]) -> list[Outcome]:
    works, model = private.works, private.works.resident.attached.model
    stacks = works.stack(lot)
    for row, assignment in enumerate(lot):
        private.seen_apart = private.seen_apart or look_apart(works, stacks, row, assignment)
    course = _Course(private, stacks, lot)
    with in_place(model, works.layers), in_mode(model, training=False):
        for done in range(private.mechanism.steps):
            course.step(done)
    return course.outcomes()


@dataclass(frozen=True, slots=True)
class _Client:
    row: int
    assignment: Assignment
    adjusting: list[Adjust]
    masks: dict[str, torch.Tensor]
    total: State = field(default_factory=dict)
    """The sum of a step's clipped gradients, float64, by name."""


class _Course:
    """The way of a lot through its steps: every client takes all of them, whatever its rows are."""

    def __init__(self, private: PrivateWorks, stacks: Stacks, lot: Sequence[Assignment]) -> None:
        self._works, self._mechanism, self._stacks = private.works, private.mechanism, stacks
        self._training = self._works.resident.recipe.training
        self._still = stacks.values_KP[:, stacks.columns.trained :].clone()
        self._optimizer = COHORT_OPTIMIZERS[self._training.optimizer](stacks, self._training)
        self._clients = [self._client(row, assignment) for row, assignment in enumerate(lot)]
        self._most_rows = most_copies(self._works.resident)
        self._rates = [0.0] * len(stacks.columns.groups)

    def _client(self, row: int, assignment: Assignment) -> _Client:
        steered, axes = self._stacks.steered(row), self._works.resident.attached.axes()
        adjusting = adjustments(steered, assignment, axes, proximal=self._training.proximal)
        return _Client(row, assignment, adjusting, masks(steered, assignment, axes))

    def step(self, done: int) -> None:
        """One step of every client: sum, release, and what a plain step does with a gradient."""
        training, columns = self._training, self._stacks.columns
        factor = rate_factor(training.schedule, done, self._mechanism.steps, training.warmup_fraction)
        self._rates = [rate + factor * group.peak_rate for rate, group in zip(self._rates, columns.groups, strict=True)]
        self._sum()
        for client in self._clients:
            row_1Q = self._stacks.gradients_KQ[client.row : client.row + 1]
            for name, gradient in self._mechanism.release(client.total).items():
                columns.view(row_1Q, name)[0].copy_(gradient)
            for adjust in client.adjusting:
                adjust()
        self._optimizer.step({client.row: factor for client in self._clients})

    def _sum(self) -> None:
        """Each client's sum over a fresh sample of its rows, up to `batch_size` of each client's in a pass."""
        waves: dict[int, list[Item]] = {}
        for client in self._clients:
            for name in self._stacks.columns.names:
                shape = self._stacks.columns.places[name][1]
                client.total[name] = torch.zeros(shape, dtype=torch.float64)
            rows = client.assignment.rows
            drawn = self._mechanism.draw(len(rows))
            for wave, indices in enumerate(slices(drawn, self._training.batch_size)):
                waves.setdefault(wave, []).extend(row_items(self._works, client.row, rows, indices))
        for items in waves.values():
            for chosen in fill(items, self._works.most_tokens, self._most_rows):
                self._add(sorted(chosen, key=lambda item: item.client))

    def _add(self, items: Sequence[Item]) -> None:
        """What one pass over these rows brings; those of a client stand together."""
        found = row_gradients(self._works, self._stacks, items)
        start = 0
        for row, own in groupby(items, key=lambda item: item.client):
            client, end = self._clients[row], start + len(list(own))
            part = {name: gradient[start:end] for name, gradient in found.items()}
            for name, inside in client.masks.items():
                part[name] *= inside
            for name, more in self._mechanism.clipped(part).items():
                client.total[name] += more
            start = end

    def outcomes(self) -> list[Outcome]:
        """What has become of each; raises PrivacyError where more than the trained tensors has changed."""
        still = self._stacks.values_KP[:, self._stacks.columns.trained :].clone()
        if not torch.equal(still.view(torch.uint8), self._still.view(torch.uint8)):
            raise PrivacyError("private steps changed a tensor of the adapter that is not trained; nothing is sent")
        states = [self._works.read(self._stacks, client.row) for client in self._clients]
        return [self._outcome(client, state) for client, state in zip(self._clients, states, strict=True)]

    def _outcome(self, client: _Client, state: State) -> Outcome:
        assignment = client.assignment
        try:
            check_finite(self._works.resident, assignment, self._mechanism.steps, state)
        except TrainingError as error:
            return error
        groups = zip(self._stacks.columns.groups, self._rates, strict=True)
        moved = {name: rate for group, rate in groups for name in group.names}
        rates = {name: moved.get(name, 0.0) for name in state if is_trained(name, assignment)}
        return LocalResult(assignment.client, state, examples=1, rates=rates, metrics={})
