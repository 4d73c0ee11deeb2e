"""How a client says no: a reason from a closed list and a sentence for the coordinator, the rest into its own log."""

import logging

from client.bench import NeedsFactors
from client.policy.declined import Declined
from fedtune.errors import DataError, FedtuneError, LedgerBroken
from fedtune.wire import Refusal, Task

_log = logging.getLogger("fedtune.client")

# What a coordinator is told of a failure: never the error's own words, which may quote rows, labels or paths.
_TOLD: tuple[tuple[type[Exception], str, str], ...] = (
    (NeedsFactors, "needs-factors", "the client does not hold the frozen factors; send them with the task"),
    (DataError, "no-data", "the client's rows do not fit this task; its own log says why"),
    (FedtuneError, "", "the client cannot do this task; its own log says why"),
    (Exception, "failed", "the client failed while it worked; its own log says why"),
)


def refuse(task: Task, client: str, error: Exception) -> Refusal:
    """The refusal that an error becomes; the error itself is logged here."""
    _, reason, message = next(row for row in _TOLD if isinstance(error, row[0]))
    if not isinstance(error, NeedsFactors):
        expected = isinstance(error, FedtuneError)
        _log.warning("%s, round %d: %s", client, task.round, error, exc_info=None if expected else error)
    own_reason = error.reason if isinstance(error, FedtuneError) else "failed"
    return Refusal(task.run, task.round, client, reason or own_reason, _told(error) or message)


def _told(error: Exception) -> str:
    """What an error has to say to a coordinator, where its words are made for that."""
    if isinstance(error, Declined):
        return error.told
    return str(error) if isinstance(error, LedgerBroken) else ""
