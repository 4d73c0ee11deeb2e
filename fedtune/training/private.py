"""DP-SGD in the client: local steps on Poisson samples of rows, each row's gradient clipped, noise on the sum.

arXiv 1607.00133. What a client sends after these steps hides each of its rows, at the price that the plan counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from fedtune.adapters.check import check_same_tensors
from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.data.base import Rows
from fedtune.errors import TrainingError
from fedtune.privacy.noise import NoiseSource
from fedtune.privacy.rows import RowSampler
from fedtune.split.base import Share
from fedtune.state import State, copy_state, shapes_of
from fedtune.training.base import NOBODY, Assignment, LocalResult, Score
from fedtune.training.evaluate import score_rows
from fedtune.training.memory import within_memory
from fedtune.training.mode import in_mode
from fedtune.training.private_checks import Marks, check_apart, private_layers
from fedtune.training.private_gradients import taking
from fedtune.training.private_loop import take_private_steps
from fedtune.training.private_mechanism import Mechanism
from fedtune.training.resident import Resident
from fedtune.training.trained import is_trained, only_trained


class PrivateStep:
    """A local step for `privacy.unit = "example"`, one client after another on the resident model.

    The model has no dropout here: its masks come from a place in the batch, so that one row more would change those of
    the rows behind it, and with them gradients that the clip does not count. `training.max_grad_norm` is not applied.
    `training.batch_size` is what fits into memory at once; the step is meant for `batch_size` x `accumulate` rows, by
    which its noised sum is divided.

    Guarantees: a row moves the sum of a step by `privacy.clip` at most, before noise of standard deviation
    `noise_multiplier` x `clip` on every trained number; a result holds nothing else that was made of rows: no loss,
    no count, no time. Rows and noise are drawn from a cryptographic generator, so no two runs are the same, and
    neighbours in a cohort share nothing. What is not trained is bit for bit what it was.
    """

    def __init__(self, resident: Resident, *, noise: NoiseSource | None = None, rows: RowSampler | None = None) -> None:
        """`noise` and `rows` are for tests; raises PrivacyError where the recipe promises something else."""
        # Uncompiled: a compiled model does not see hooks that come later.
        self._resident = replace(resident, call=resident.attached.model)
        self._mechanism = Mechanism.of(resident.recipe, noise, rows)
        self._seen_apart = False

    def train(self, cohort: Sequence[Assignment]) -> Iterator[LocalResult]:
        """Train when asked for the next result; an error is raised at its client, and the next can be asked for.

        Raises PrivacyError where the model or the adapter is not fit for private steps, TrainingError where the memory
        does not suffice or the noise drove the weights to infinity.
        """
        return map(self._train, cohort)

    def evaluate(self, state: State, rows: Rows, shift: Shift = NO_SHIFT, _share: Share = NOBODY, /) -> Score:
        """Score a state on rows, on base weights that `shift` was added to; what becomes of the score is not decided
        here."""
        return score_rows(self._resident, state, rows, shift)

    def _train(self, assignment: Assignment) -> LocalResult:
        state, moved = assignment.state, dict[str, float]()
        check_same_tensors(shapes_of(state), self._resident.shapes(), what="the adapter state")
        if self._mechanism.steps and assignment.trained != ():
            state, moved = self._take_steps(assignment)
        rates = {name: moved.get(name, 0.0) for name in state if is_trained(name, assignment)}
        return LocalResult(assignment.client, copy_state(state), examples=1, rates=rates, metrics={})

    def _take_steps(self, assignment: Assignment) -> tuple[State, dict[str, float]]:
        resident, model = self._resident, self._resident.attached.model
        with resident.lock:
            resident.attached.shift_to(assignment.shift)
            resident.attached.load(assignment.state)
            with (
                only_trained(resident.attached.parameters(), assignment) as parameters,
                in_mode(model, training=False),
                within_memory(resident.device, advice="lower training.batch_size and raise training.accumulate"),
            ):
                layers, marks = private_layers(model, parameters), Marks(model, parameters)
                self._look(assignment.rows, parameters, layers)
                with taking(resident, parameters, layers) as gradients:
                    moved = take_private_steps(resident, assignment, self._mechanism, parameters, gradients)
                marks.check()
            state = resident.attached.read()
        check_finite(resident, assignment, self._mechanism.steps, state)
        return state, moved

    def _look(self, rows: Rows, parameters: Mapping[str, nn.Parameter], layers: list[nn.Module]) -> None:
        """Once in the life of this object, on the first two rows that can tell: does the model keep rows apart?"""
        if self._seen_apart or len(rows) < 2:
            return
        with taking(replace(self._resident, bf16=False), parameters, layers) as gradients:
            self._seen_apart = check_apart(gradients, rows, (0, 1))


def check_finite(resident: Resident, assignment: Assignment, steps: int, state: State) -> None:
    """Raise TrainingError where so many steps, and their noise, have driven a client's weights to infinity."""
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise TrainingError(
            f"{assignment.client}: the weights are not finite after {steps} private steps; lower training.lr (now "
            f"{resident.recipe.training.lr:g})."
        )
