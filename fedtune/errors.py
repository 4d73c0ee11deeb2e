"""Every error that fedtune raises on purpose: one tree, one sentence a class.

FedtuneError
├── RecipeError            a recipe cannot be read, is wrong, or mixes what must not be mixed
├── DataError              a data set cannot be read or does not fit the task
├── ModelError             a base model cannot be found, read or trusted to be the one that was named
├── AdapterError           an adapter does not fit its model, or a saved one is damaged
├── TrainingError          a client's local steps came to nothing
├── ProtocolError          a message does not say what it must
│   ├── MalformedMessage   bytes that are no fedtune message, are cut short or were changed
│   ├── OversizeMessage    a message larger than its limit
│   ├── StaleUpdate        made for another run, round or global state
│   ├── DuplicateUpdate    a client's second update for one round
│   ├── UnknownClient      a client that was not asked
│   ├── NonFiniteUpdate    NaN or infinity in what would be summed
│   ├── MismatchedUpdate   other names, shapes or dtypes than the adapter has
│   ├── WrongRank          a rank that the client was not given, or that its tensors do not have
│   ├── WeightOutOfRange   a claimed number of examples that cannot be true
│   └── MissingBody        an update whose client's copy of a trained body is not finished
├── PrivacyError           a mix or step that would break a stated privacy guarantee
│   └── LedgerBroken       a privacy ledger was changed, cut short, rolled back or forked
├── TransportError         the other side cannot be reached, or refuses who is asking
│   └── EnrolmentError     a certificate is missing, expired, foreign or revoked
└── RunError               a run cannot start, go on or be read from its folder

The message of each is one sentence for a person: what is wrong and what to change.
"""


class FedtuneError(Exception):
    """Anything that fedtune refuses; the message is one sentence that says what to change."""

    @property
    def reason(self) -> str:
        """A short stable name for reports and counters, such as `non-finite-update`."""
        name = type(self).__name__
        return "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


class RecipeError(FedtuneError):
    """A recipe cannot be read, is wrong, or mixes what must not be mixed."""


class DataError(FedtuneError):
    """A data set cannot be read or does not fit the task."""


class ModelError(FedtuneError):
    """A base model cannot be found or read, or is not the one that was named."""


class AdapterError(FedtuneError):
    """An adapter does not fit its model, or a saved one is damaged."""


class TrainingError(FedtuneError):
    """A client's local steps came to nothing: the loss is not finite, or the memory does not suffice."""


class ProtocolError(FedtuneError):
    """A message does not say what it must."""


class MalformedMessage(ProtocolError):
    """Bytes that are no fedtune message, are cut short or were changed on the way."""


class OversizeMessage(ProtocolError):
    """A message larger than its limit; nothing of it was read."""


class StaleUpdate(ProtocolError):
    """An update made for another run, round or global state."""


class DuplicateUpdate(ProtocolError):
    """A client's second update for one round."""


class UnknownClient(ProtocolError):
    """A reply from a client that was not asked in this round."""


class NonFiniteUpdate(ProtocolError):
    """An update that holds NaN or infinity."""


class MismatchedUpdate(ProtocolError):
    """An update whose tensor names, shapes or dtypes are not the adapter's."""


class WrongRank(ProtocolError):
    """A rank that the client was not given, or that its tensors do not have."""


class WeightOutOfRange(ProtocolError):
    """A claimed number of examples that cannot be true."""


class MissingBody(ProtocolError):
    """An update whose client's copy of a trained body is not finished: the two count together or not at all."""


class PrivacyError(FedtuneError):
    """A mix or a step that would break a stated privacy guarantee."""


class LedgerBroken(PrivacyError):
    """A privacy ledger was changed, cut short, rolled back or forked, or tells a story that cannot be."""


class TransportError(FedtuneError):
    """The other side cannot be reached, or the connection was refused."""


class EnrolmentError(TransportError):
    """A certificate is missing, expired, foreign or revoked."""


class RunError(FedtuneError):
    """A run cannot start, go on or be read from its folder."""
