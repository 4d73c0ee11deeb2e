"""The local step of cohorts: clients share passes where the model allows it, and take turns where it does not."""

import logging
from collections.abc import Iterator, Sequence

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.cohort.budget import token_budget
from fedtune.cohort.fits import fits
from fedtune.cohort.group import lots
from fedtune.cohort.lane import Lane
from fedtune.cohort.lot import Works, train_lot
from fedtune.cohort.outcomes import Outcome, Outcomes, attempt
from fedtune.cohort.passes import pass_for
from fedtune.cohort.place import cohort_layers
from fedtune.cohort.score import outputs_by
from fedtune.data.base import Rows
from fedtune.split.base import Share
from fedtune.state import State
from fedtune.training.base import NOBODY, Assignment, LocalResult, Score
from fedtune.training.evaluate import plain_outputs, score_rows
from fedtune.training.loop import train_client
from fedtune.training.resident import Resident

log = logging.getLogger(__name__)

MOST_CLIENTS = 32
"""Clients whose tensors are in memory at once."""
MOST_BYTES = 2**30
"""What those tensors, their gradients and their optimisers' memories may take."""


class CohortStep:
    """A local step in which many clients' rows go through the frozen base in one pass.

    Guarantees: a client's result depends on its assignment alone, up to the rounding of its products: to 1e-6 of what
    `SequentialStep` makes of it. A client alone, and every client of a model that is not fit for shared passes, is
    trained as there, bit for bit. Cohorts are cut into lots of a few clients by their order, so that memory does not
    grow with them; the same cohort gives the same bits.
    """

    def __init__(self, resident: Resident, *, most_tokens: int | None = None) -> None:
        """`most_tokens`: up to how many tokens a pass is filled; what suits the device unless given."""
        self._resident = resident
        self.turns = fits(resident)
        """Why the clients take turns; None where they share passes."""
        self._works = _works(resident, most_tokens) if self.turns is None else None
        numbers = sum(parameter.numel() for parameter in resident.attached.parameters().values())
        self._most_clients = max(1, min(MOST_CLIENTS, MOST_BYTES // (16 * max(numbers, 1))))

    def notes(self) -> tuple[str, ...]:
        """How shared passes are computed, for a person."""
        return () if self._works is None else self._works.forward.notes()

    def train(self, cohort: Sequence[Assignment]) -> Iterator[LocalResult]:
        """Train, a lot of clients at a time, when the first result of a lot is asked for."""
        return Outcomes(self._outcomes(cohort))

    def evaluate(self, state: State, rows: Rows, shift: Shift = NO_SHIFT, _share: Share = NOBODY, /) -> Score:
        """Score a state on rows, on base weights that `shift` was added to."""
        outputs = plain_outputs if self._works is None else outputs_by(self._works.forward, shift)
        return score_rows(self._resident, state, rows, shift, outputs)

    def _outcomes(self, cohort: Sequence[Assignment]) -> Iterator[Outcome]:
        for start in range(0, len(cohort), self._most_clients):
            window = cohort[start : start + self._most_clients]
            alike = [] if self._works is None else lots(window, self._resident.recipe.training)
            lot_of = {position: lot for lot in alike for position in lot}
            known: dict[int, Outcome] = {}
            for position in range(len(window)):
                if position not in known:
                    lot = lot_of.get(position, [position])
                    known |= zip(lot, self._train_lot([window[other] for other in lot]), strict=True)
                yield known.pop(position)

    def _train_lot(self, lot: Sequence[Assignment]) -> list[Outcome]:
        if self._works is not None and len(lot) > 1:
            try:
                return train_lot(self._works, lot)
            except Exception as error:
                # Whose fault it was, or whether there was too little memory for them all, shows when they take turns.
                log.warning("%d clients take turns, for a pass that they shared has failed: %s", len(lot), error)
        return [attempt(lambda share: train_client(self._resident, share), assignment) for assignment in lot]


def _works(resident: Resident, most_tokens: int | None) -> Works:
    lane = Lane()
    layers = cohort_layers(resident.attached, lane)
    return Works(resident, lane, layers, pass_for(resident, lane), most_tokens or token_budget(resident))
