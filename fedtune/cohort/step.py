"""The local step of cohorts: clients share passes where the model allows it, and take turns where it does not."""

import logging
from collections.abc import Iterator, Sequence

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.cohort.fits import fits
from fedtune.cohort.group import lots
from fedtune.cohort.lot import train_lot
from fedtune.cohort.outcomes import Outcome, Outcomes, attempt
from fedtune.cohort.room import USUAL, Room
from fedtune.cohort.score import outputs_by
from fedtune.cohort.windows import in_windows
from fedtune.cohort.works import Works, most_clients
from fedtune.data.base import Rows
from fedtune.split.base import Share
from fedtune.state import State
from fedtune.training.base import NOBODY, Assignment, LocalResult, Score
from fedtune.training.evaluate import plain_outputs, score_rows
from fedtune.training.loop import SMALLER, train_client
from fedtune.training.memory import ran_out, within_memory
from fedtune.training.resident import Resident

log = logging.getLogger(__name__)


class CohortStep:
    """A local step in which many clients' rows go through the frozen base in one pass.

    Guarantees: a client's result depends on its assignment alone, up to the rounding of its products: to 1e-6 of what
    `SequentialStep` makes of it, but for dropout, which is drawn here for each row by itself
    (`fedtune.cohort.drops`). Every client of a model that is not fit for shared passes is trained as there, bit for
    bit, and so is one alone where such a pass computes no less for it (`Pass.saves`) and nothing is dropped. Cohorts
    are cut into lots of a few clients by their order, so that memory does not grow with them; the same cohort gives the
    same bits.
    """

    def __init__(self, resident: Resident, room: Room = USUAL, *, most_tokens: int | None = None) -> None:
        """`room`: for what is kept of rows.

        `most_tokens`: up to how many tokens a pass is filled; what suits the device unless given.
        """
        self._resident = resident
        self.turns = fits(resident)
        """Why the clients take turns; None where they share passes."""
        self._works = Works.of(resident, most_tokens, room) if self.turns is None else None
        self._most_clients = most_clients(resident)

    def train(self, cohort: Sequence[Assignment]) -> Iterator[LocalResult]:
        """Train, a lot of clients at a time, when the first result of a lot is asked for."""
        return Outcomes(in_windows(cohort, self._most_clients, self._lots, self._train_lot))

    def evaluate(self, state: State, rows: Rows, shift: Shift = NO_SHIFT, _share: Share = NOBODY, /) -> Score:
        """Score a state on rows, on base weights that `shift` was added to."""
        outputs = plain_outputs if self._works is None else outputs_by(self._works.forward, shift)
        return score_rows(self._resident, state, rows, shift, outputs)

    def _lots(self, window: Sequence[Assignment]) -> list[list[int]]:
        return [] if self._works is None else lots(window, self._resident.recipe.training)

    def _gains(self, lot: Sequence[Assignment]) -> bool:
        """Do these train faster than in turns? One alone does where a step of it computes less."""
        return len(lot) > 1 or (self._works is not None and self._works.forward.saves and bool(self._lots(lot)))

    def _train_lot(self, lot: Sequence[Assignment]) -> list[Outcome]:
        if self._works is not None and self._gains(lot):
            try:
                return train_lot(self._works, lot)
            except Exception as error:
                # Whose fault it was, or whether there was too little memory for them all, shows when they take turns.
                who = f"{len(lot)} clients take turns" if len(lot) > 1 else "a client takes the model's own passes"
                log.warning("%s, for a pass that saves work has failed: %s", who, error)
                if ran_out(error):
                    self._works.forward.close()  # what is kept of rows makes room
        return [attempt(self._train_alone, assignment) for assignment in lot]

    def _train_alone(self, assignment: Assignment) -> LocalResult:
        """One client by the model's own passes; where numbers are dropped by those that it would share, in which its
        rows' dropout is what it was beside others."""
        if self._works is None or not self._works.drops or not self._lots([assignment]):
            return train_client(self._resident, assignment)
        with within_memory(self._resident.device, advice=SMALLER):
            (outcome,) = train_lot(self._works, [assignment])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
