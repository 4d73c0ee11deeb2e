"""The plain way through a cohort: one client after another on the resident model."""

from collections.abc import Iterator, Sequence
from functools import partial

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.data.base import Rows
from fedtune.split.base import Share
from fedtune.state import State
from fedtune.training.base import NOBODY, Assignment, LocalResult, Score
from fedtune.training.evaluate import score_rows
from fedtune.training.loop import train_client
from fedtune.training.resident import Resident


class SequentialStep:
    """A local step that swaps each client's tensors into the resident model.

    Guarantees: a client's result depends on its assignment alone, bit for bit: not on its neighbours in the cohort,
    their order, or what is evaluated in between. Base weights change by an assignment's shift alone, which the next one
    takes back. On a GPU this holds as far as its kernels are deterministic.
    """

    def __init__(self, resident: Resident) -> None:
        self._resident = resident

    def train(self, cohort: Sequence[Assignment]) -> Iterator[LocalResult]:
        """Train when asked for the next result; an error is raised at its client, and the next can be asked for."""
        return map(partial(train_client, self._resident), cohort)

    def evaluate(self, state: State, rows: Rows, shift: Shift = NO_SHIFT, _share: Share = NOBODY, /) -> Score:
        """Score a state on rows, on base weights that `shift` was added to."""
        return score_rows(self._resident, state, rows, shift)
