"""Who hears how a run goes: the progress bar, a log, a test."""

from fedtune.runs.record import ClientRecord, RoundRecord


class Listener:
    """Told of each step of a run; this one stays silent, others override what they care for."""

    def connected(self, count: int, wanted: int) -> None:
        """So many clients are connected, of so many to begin with."""

    def began(self, run: str, first_round: int, rounds: int) -> None:
        """The run starts, or goes on, with `first_round`."""

    def asked(self, round_: int, clients: int, what: str) -> None:
        """So many clients were asked to do `what` (`train`, `evaluate`, `gradient`)."""

    def replied(self, record: ClientRecord, what: str) -> None:
        """One client's reply was taken in or set aside."""

    def finished(self, record: RoundRecord) -> None:
        """A round is over and written."""

    def noted(self, sentence: str) -> None:
        """Something that a person should know."""


class KnowsRun(Listener):
    """Remembers which run it is, and passes everything on."""

    def __init__(self, inner: Listener) -> None:
        self._inner = inner
        self._run = ""

    def run(self) -> str:
        """The id of the run; "" until it has begun."""
        return self._run

    def connected(self, count: int, wanted: int) -> None:
        """Passed on."""
        self._inner.connected(count, wanted)

    def began(self, run: str, first_round: int, rounds: int) -> None:
        """Remembered, and passed on."""
        self._run = run
        self._inner.began(run, first_round, rounds)

    def asked(self, round_: int, clients: int, what: str) -> None:
        """Passed on."""
        self._inner.asked(round_, clients, what)

    def replied(self, record: ClientRecord, what: str) -> None:
        """Passed on."""
        self._inner.replied(record, what)

    def finished(self, record: RoundRecord) -> None:
        """Passed on."""
        self._inner.finished(record)

    def noted(self, sentence: str) -> None:
        """Passed on."""
        self._inner.noted(sentence)
