"""The coordinator's books: what a run spends is in the ledger before it is spent, and nothing beyond its budget."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType

from fedtune.audit.ledger import AbortBody, CloseBody, CommitBody, Drawn, LedgerWriter, Offer, ReserveBody
from fedtune.audit.ledger.bodies import What
from fedtune.audit.ledger.draws import commit as commit_draw
from fedtune.audit.ledger.entry import leaves_of
from fedtune.audit.ledger.merkle import root
from fedtune.audit.ledger.pseudonym import RunSecret
from fedtune.errors import FedtuneError, LedgerBroken, PrivacyError
from fedtune.privacy.events import Event
from fedtune.privacy.plan import Plan
from server.budget import Budget
from server.select import Draw


class Charge:
    """What one step of a run spends: reserve it before anything is sent, commit it before the result is released.

    Guarantees: a charge that is left without `commit`, by an error or because its result does not count, is aborted;
    it is spent all the same. This one is of a run without a unit of privacy, and writes nothing.
    """

    def reserve(self, names: Iterable[str], draw: Draw | None = None) -> None:
        """Charge the clients `names`, or everybody where the coordinator hides them."""

    def commit(self, outcomes: Mapping[str, str], state_digest: str) -> None:
        """The result is known and may be released from now on; `outcomes` by client."""

    def __enter__(self) -> "Charge":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Abort what was reserved and not committed."""


class Books:
    """The books of a run; this one is of a run without a unit of privacy, which keeps none."""

    def offer(self, since: int) -> Offer | None:
        """The ledger's head for clients that hold entry `since`; None where there is no ledger."""
        return None

    def pays(self, what: What) -> bool:
        """Does the plan charge anything for this?"""
        return False

    def affordable(self, what: What, names: list[str]) -> list[str]:
        """Those of the clients whose budget of this run suffices to be asked."""
        return names

    def charge(self, what: What, round_: int) -> Charge:
        """A charge to be reserved."""
        return Charge()

    def meet(self, round_: int) -> None:
        """Raise LedgerBroken where a run stands after a round that the ledger has not seen."""

    def close(self, rounds: int, adapter_digest: str) -> None:
        """The run is over."""


class KeptBooks(Books):
    """Books kept in the ledger of a run folder.

    Guarantees: a reservation is on the disk before `reserve` returns, and is within the budget; what was open when a
    process died is aborted, and counts as spent, when the books are taken up again.
    """

    def __init__(self, writer: LedgerWriter, plan: Plan, secret: RunSecret, epsilon: float | None) -> None:
        self._writer = writer
        self._plan = plan
        self._secret = secret
        self._budget = Budget(plan, epsilon)
        self._by_name = plan.trust == "client"
        self._events: Mapping[What, tuple[Event, ...]] = {
            "start": plan.start_events,
            "run": plan.run_events,
            "train": plan.round_events,
            "evaluate": plan.evaluation_events,
        }
        self._take_up()

    def offer(self, since: int) -> Offer:
        """The ledger's head, with what leads to it from entry `since`; -1 for all."""
        return self._writer.offer(since)

    def pays(self, what: What) -> bool:
        """Does the plan charge anything for this?"""
        return bool(self._events[what])

    def affordable(self, what: What, names: list[str]) -> list[str]:
        """Those of the clients whose budget of this run suffices to be asked; all or nobody where they are hidden."""
        if not self._by_name:
            return names if self._budget.allows(self._writer.tally.everyone, self._events[what]) else []
        return [name for name in names if self._affords(self._secret.pseudonym(name), what)]

    def charge(self, what: What, round_: int) -> Charge:
        """A charge to be reserved."""
        return KeptCharge(self, what, round_)

    def meet(self, round_: int) -> None:
        """Raise LedgerBroken where a run stands after a round that the ledger has not seen."""
        if round_ > self._writer.story.reached:
            raise LedgerBroken(
                f"the run stands after round {round_}, and its ledger ends before: the ledger was rolled back; restore "
                f"{self._writer.path} from a copy"
            )

    def close(self, rounds: int, adapter_digest: str) -> None:
        """The run is over; written once, however often a finished run is taken up again."""
        body = CloseBody(rounds=rounds, adapter_digest=adapter_digest)
        if self._writer.last is None or self._writer.last.body != body:
            self._writer.append(body)

    def reserve(self, what: What, round_: int, names: Iterable[str], draw: Draw | None) -> None:
        """Write the reservation; raises PrivacyError where it is over the budget or would charge nobody."""
        pseudonyms = sorted(self._secret.pseudonym(name) for name in names)
        charged = pseudonyms if self._by_name else []
        if self._by_name and not charged:
            raise PrivacyError(f"no client is there whose budget of this run suffices for {what} in round {round_}")
        if not all(self._affords(name, what) for name in charged or [""]):
            raise PrivacyError(f"round {round_} would spend more than privacy.epsilon: {what} is not begun")
        self._writer.append(
            ReserveBody(
                round=round_,
                what=what,
                events=self._events[what],
                participants=tuple(charged),
                drawn=self._drawn(round_, pseudonyms, draw),
            )
        )

    def commit(self, outcomes: Mapping[str, str], state_digest: str) -> None:
        """Commit the open reservation."""
        entry, reserved = self._writer.story.reservation()
        named = {self._secret.pseudonym(name): outcome for name, outcome in outcomes.items()} if self._by_name else {}
        self._writer.append(
            CommitBody(
                round=reserved.round,
                what=reserved.what,
                outcomes=named,
                state_digest=state_digest,
                root=root(leaves_of(entry, named)).hex(),
            )
        )

    def abort(self, reason: str) -> None:
        """Abort the open reservation."""
        entry, reserved = self._writer.story.reservation()
        self._writer.append(
            AbortBody(round=reserved.round, what=reserved.what, reason=reason, root=root(leaves_of(entry, {})).hex())
        )

    def _take_up(self) -> None:
        story = self._writer.story
        if story.pending is not None and story.reservation()[1].what != "run":
            self.abort("interrupted")
        # The run's own reservation is for whatever its rounds release, also those of a later process.
        if story.pending is None and self.pays("run") and not story.has_run:
            self.reserve("run", 0, (), None)
        if story.pending is not None:
            self.commit({}, "")

    def _affords(self, pseudonym: str, what: What) -> bool:
        spent = self._writer.tally.of(pseudonym) if pseudonym else self._writer.tally.everyone
        return self._budget.allows(spent, self._events[what])

    def _drawn(self, round_: int, pseudonyms: list[str], draw: Draw | None) -> Drawn | None:
        if draw is None or self._by_name:
            return None
        hidden = draw.sampling_rate is not None
        return Drawn(
            population=draw.population,
            sampling_rate=draw.sampling_rate or 1.0,
            commitments=(commit_draw(self._writer.path.parent, round_, pseudonyms),),
            asked=() if hidden else tuple(pseudonyms),
        )


class KeptCharge(Charge):
    """A charge that is written down."""

    def __init__(self, books: KeptBooks, what: What, round_: int) -> None:
        self._books = books
        self._what: What = what
        self._round = round_
        self._is_open = False

    def reserve(self, names: Iterable[str], draw: Draw | None = None) -> None:
        """Charge the clients `names`, or everybody where the coordinator hides them; raises PrivacyError, RunError."""
        self._books.reserve(self._what, self._round, names, draw)
        self._is_open = True

    def commit(self, outcomes: Mapping[str, str], state_digest: str) -> None:
        """The result is known and may be released from now on; `outcomes` by client."""
        self._books.commit(outcomes, state_digest)
        self._is_open = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Abort what was reserved and not committed."""
        if not self._is_open:
            return
        self._is_open = False
        if error is None:
            self._books.abort("too-few-replies")
            return
        # What cannot be written stays open, which is spent too; the first error is the one to tell.
        with suppress(FedtuneError):
            self._books.abort(error.reason if isinstance(error, FedtuneError) else "stopped")
