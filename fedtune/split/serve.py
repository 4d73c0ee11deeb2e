"""A body that serves many clients at once, without a transport: who they are, and what they ask and are answered."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from fedtune.errors import TransportError
from fedtune.split.asks import Answer, Ask, BackwardAsk, Coding, ForwardAsk, StepAsk, Stepped, Way
from fedtune.split.base import Share
from fedtune.split.batching import Batching
from fedtune.split.body_pass import Engine
from fedtune.split.copies import BodyCopies
from fedtune.split.limits import SplitLimits
from fedtune.split.session import Session
from fedtune.split.worker import Worker

IDLE = "the client has left the body waiting for {:g} s and loses its place; lower training.batch_size for slow clients"


class BodyServer:
    """All methods may be called from any thread; none but `work` waits for torch.

    Guarantees: a client's failure, close or lost connection frees its graphs before the call returns, and changes
    nobody's answers; with `close` everything of a client is gone. Where a client shared a pass, the others' graph goes
    too, and is computed again from their inputs when their gradients come.

    Args:
        body: (B, T, D), mask -> (B, T, D).
        width: D.
        batching: how micro-batches share passes; what pays on the device unless it is given. Clients with copies of
            their own share none.
        autocast: the precision of a pass, as a context.
        copies: what is trained of the body; None where it is frozen.
    """

    def __init__(
        self,
        body: nn.Module,
        width: int,
        *,
        coding: Coding | None = None,
        device: torch.device | str = "cpu",
        limits: SplitLimits | None = None,
        batching: Batching | None = None,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        copies: BodyCopies | None = None,
    ) -> None:
        device = torch.device(device)
        self._copies = copies
        self.width = width
        self.coding = coding or Coding()
        self.limits = limits or SplitLimits()
        self._changed = threading.Condition()
        self._sessions: dict[str, Session] = {}
        self._away: dict[str, float] = {}
        self._heard: dict[Session, Callable[[], None]] = {}
        engine = Engine(body, device, self.coding, autocast)
        batching = Batching() if copies else batching or Batching.on(device)
        self._worker = Worker(engine, batching, self._changed, self._tell, lambda: len(self._heard))

    # -- a client's side

    def open(
        self, client: str, id_: str, heard: Callable[[], None], *, run: str = "", round_: int = 0
    ) -> tuple[Session, bool]:
        """The session of a client, and whether it is one that was there before; another one of its ends here.

        `heard` is called, with a lock held and from any thread, when there is an answer or the session has failed.
        Raises TransportError where the body has its clients, or where its copies are not for this run and round.
        """
        with self._changed:
            session = self._sessions.get(client)
            known = session is not None and session.id == id_ and not session.closed
            if session is None or not known:
                self._end(client)
                if len(self._sessions) >= self.limits.max_clients:
                    raise TransportError(f"the body serves its {self.limits.max_clients} clients already; try later")
                copy = self._copies.open(Share(run, round_, client)) if self._copies else None
                session = self._sessions[client] = Session(client, id_, self.coding, self.width, self.limits, copy)
            session.attach()
            self._away.pop(client, None)
            self._heard[session] = heard
            return session, known

    def check(self, session: Session, ask: Ask) -> None:
        """Look at an ask before its tensor has come; raises MalformedMessage or OversizeMessage."""
        with self._changed:
            if isinstance(ask, ForwardAsk):
                session.check_forward(ask)
            elif isinstance(ask, BackwardAsk):
                session.check_backward(ask)

    def ask(self, session: Session, ask: Ask) -> None:
        """Work for the body, unless it is known already; raises MalformedMessage or OversizeMessage."""
        with self._changed:
            if session.closed:
                return
            if isinstance(ask, StepAsk):
                session.step(ask)
                self._tell(session)
                return
            if isinstance(ask, ForwardAsk):
                entry = session.forward(ask)
                way: Way = "forward"
            else:
                entry, way = session.backward(ask), "backward"
            # What the client knows already is kept for its gradient alone.
            if entry is not None and not (way == "forward" and entry.ask.silent):
                self._worker.submit(entry, way)

    def acknowledge(self, session: Session, number: int, way: Way) -> None:
        """The client has an answer."""
        with self._changed:
            session.acknowledge(number, way)

    def held(self, session: Session) -> tuple[list[int], list[int]]:
        """The numbers whose forward, and those whose backward, need not be sent again."""
        with self._changed:
            return session.held()

    def next_answer(self, session: Session) -> Answer | Stepped | None:
        """What to send next; raises what the session failed of."""
        with self._changed:
            if session.failure is not None:
                raise session.failure
            return session.next_answer()

    def detach(self, session: Session, heard: Callable[[], None]) -> None:
        """The connection that said `heard` is gone; nothing happens where another one has taken its place."""
        with self._changed:
            if self._heard.get(session) == heard:
                del self._heard[session]
                session.detach()
                self._away[session.client] = time.monotonic()

    def close(self, session: Session) -> None:
        """The client's share is done, or given up."""
        with self._changed:
            if self._sessions.get(session.client) is session:
                self._end(session.client)
            self._worker.forget(session)

    def sweep(self, now: float | None = None) -> None:
        """Forget sessions that have been without a connection for too long; end those whose client is idle too long.

        `now` on the monotonic clock, for tests.
        """
        with self._changed:
            now = time.monotonic() if now is None else now
            for session in [s for s in self._heard if not s.closed and s.idle_s(now) >= self.limits.idle_s]:
                session.fail(TransportError(IDLE.format(self.limits.idle_s)))
                self._worker.forget(session)
                self._tell(session)
            for client in [c for c, since in self._away.items() if now - since >= self.limits.away_s]:
                self._end(client)

    def sessions(self) -> Mapping[str, Session]:
        """The sessions by client, to look at."""
        with self._changed:
            return dict(self._sessions)

    # -- the body's side

    def start(self) -> None:
        """Let a thread do the work."""
        self._worker.start()

    def stop(self) -> None:
        """End the thread, and free everything."""
        self._worker.stop()
        with self._changed:
            for client in list(self._sessions):
                self._end(client)

    def work(self) -> bool:
        """Do what can be done in one pass, in this thread; False where nothing waits."""
        return self._worker.work()

    @property
    def passes(self) -> int:
        """How often the body was run forwards for what was asked."""
        return self._worker.passes

    # -- with the lock held

    def _end(self, client: str) -> None:
        session = self._sessions.pop(client, None)
        self._away.pop(client, None)
        if session is not None:
            session.close()
            self._worker.forget(session)
            self._tell(session)
            self._heard.pop(session, None)

    def _tell(self, session: Session) -> None:
        if (heard := self._heard.get(session)) is not None:
            heard()
