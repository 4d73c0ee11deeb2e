"""The private step of cohorts: rows of many clients share passes, each row's gradient is clipped by itself."""

import logging
from collections.abc import Iterator, Sequence

from fedtune.adapters.shift import NO_SHIFT, Shift
from fedtune.cohort.fits import fits
from fedtune.cohort.group import alike
from fedtune.cohort.outcomes import Outcome, Outcomes, attempt
from fedtune.cohort.private_look import RowsMixError
from fedtune.cohort.private_lot import PrivateWorks, train_private_lot
from fedtune.cohort.room import USUAL, Room
from fedtune.cohort.score import outputs_by
from fedtune.cohort.windows import in_windows
from fedtune.cohort.works import Works, most_clients
from fedtune.data.base import Rows
from fedtune.errors import PrivacyError
from fedtune.privacy.noise import NoiseSource
from fedtune.privacy.rows import RowSampler
from fedtune.split.base import Share
from fedtune.state import State
from fedtune.training.base import NOBODY, Assignment, LocalResult, Score
from fedtune.training.evaluate import plain_outputs, score_rows
from fedtune.training.private import PrivateStep
from fedtune.training.private_mechanism import Mechanism
from fedtune.training.resident import Resident

log = logging.getLogger(__name__)


class CohortPrivateStep:
    """`PrivateStep` for many clients at once: its sums, its noise, its guarantees, for each client by itself.

    Clients share passes through the base model and nothing else: every client has its own sample of rows and its own
    noise in every step, and takes as many steps as the plan counts. A row's gradient depends on the row and its
    client's tensors alone, up to the rounding of products, which comes before the clip: after it the sum moves by
    `privacy.clip` at most. A client alone, and every client of a model that is not fit for shared passes, takes the
    steps of `PrivateStep` itself. Nothing is dropped at random, whatever `model.dropout` says.
    """

    def __init__(
        self,
        resident: Resident,
        room: Room = USUAL,
        *,
        noise: NoiseSource | None = None,
        rows: RowSampler | None = None,
        most_tokens: int | None = None,
    ) -> None:
        """`room` is for what is kept of rows; `noise` and `rows` are for tests.

        `most_tokens` is up to how many tokens a pass is filled.

        Raises PrivacyError where the recipe promises something else.
        """
        self._resident = resident
        self._alone = PrivateStep(resident, noise=noise, rows=rows)
        self.turns = fits(resident)
        """Why the clients take turns; None where they share passes."""
        self._private: PrivateWorks | None = None
        if self.turns is None:
            mechanism = Mechanism.of(resident.recipe, noise, rows)
            self._private = PrivateWorks(Works.of(resident, most_tokens, room), mechanism)
        self._most_clients = most_clients(resident)

    def train(self, cohort: Sequence[Assignment]) -> Iterator[LocalResult]:
        """Train, a lot of clients at a time, when the first result of a lot is asked for.

        An error is raised at its client, and the next can be asked for; the errors are those of `PrivateStep`.
        """
        return Outcomes(in_windows(cohort, self._most_clients, self._lots, self._train_lot))

    def evaluate(self, state: State, rows: Rows, shift: Shift = NO_SHIFT, _share: Share = NOBODY, /) -> Score:
        """Score a state on rows, on base weights that `shift` was added to; what becomes of the score is not decided
        here."""
        outputs = plain_outputs if self._private is None else outputs_by(self._private.works.forward, shift)
        return score_rows(self._resident, state, rows, shift, outputs)

    def _lots(self, window: Sequence[Assignment]) -> list[list[int]]:
        """Who shares: nobody's rows have a say, nor their number."""
        if self._private is None or not self._private.mechanism.steps:
            return []
        return alike(window, range(len(window)))

    def _train_lot(self, lot: Sequence[Assignment]) -> list[Outcome]:
        if self._private is not None and len(lot) > 1:
            try:
                return train_private_lot(self._private, lot)
            except PrivacyError as error:
                return [error for _ in lot]
            except RowsMixError as error:
                self._private, self.turns = None, str(error)
                log.warning("clients take turns from here on, because %s", error)
            except Exception as error:
                # Nothing of what was computed leaves; whose fault it was shows when they take turns, with new noise.
                log.warning("%d clients take turns, for a pass that they shared has failed: %s", len(lot), error)
        return [attempt(lambda share: next(self._alone.train([share])), assignment) for assignment in lot]
