"""A body that serves many clients at once, without a transport: their sessions, and the one thread that runs torch."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

from fedtune.errors import FedtuneError, MalformedMessage, TrainingError, TransportError
from fedtune.split.asks import Answer, Ask, Coding, ForwardAsk, Way
from fedtune.split.batching import Batching, Job
from fedtune.split.body_pass import Engine, Pass
from fedtune.split.limits import SplitLimits
from fedtune.split.session import Entry, Session

_T = TypeVar("_T")
_log = logging.getLogger("fedtune.split")


class BodyServer:
    """All methods may be called from any thread; none but `work` waits for torch.

    Guarantees: a client's failure, close or lost connection frees its graphs before the call returns, and changes
    nobody's answers; with `close` everything of a client is gone. Where a client shared a pass, the others' graph goes
    too, and is computed again from their inputs when their gradients come.

    Args:
        body: (B, T, D), mask -> (B, T, D), frozen.
        width: D.
        batching: how micro-batches share passes; what pays on the device unless it is given.
        autocast: the precision of a pass, as a context.
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
    ) -> None:
        device = torch.device(device)
        self.width = width
        self.coding = coding or Coding()
        self.limits = limits or SplitLimits()
        self._engine = Engine(body, device, self.coding, autocast)
        self._batching = batching or Batching.on(device)
        self._changed = threading.Condition()
        self._sessions: dict[str, Session] = {}
        self._away: dict[str, float] = {}
        self._heard: dict[Session, Callable[[], None]] = {}
        self._waiting: list[Job] = []
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.passes = 0
        """How often the body was run forwards."""

    # -- a client's side

    def open(self, client: str, id_: str, heard: Callable[[], None]) -> tuple[Session, bool]:
        """The session of a client, and whether it is one that was there before; another one of its ends here.

        `heard` is called, with a lock held and from any thread, when there is an answer or the session has failed.
        Raises TransportError where the body has its clients.
        """
        with self._changed:
            session = self._sessions.get(client)
            known = session is not None and session.id == id_ and not session.closed
            if session is None or not known:
                self._end(client)
                if len(self._sessions) >= self.limits.max_clients:
                    raise TransportError(f"the body serves its {self.limits.max_clients} clients already; try later")
                session = self._sessions[client] = Session(client, id_, self.coding, self.width, self.limits)
            session.attach()
            self._away.pop(client, None)
            self._heard[session] = heard
            return session, known

    def check(self, session: Session, ask: Ask) -> None:
        """Look at an ask before its tensor has come; raises MalformedMessage or OversizeMessage."""
        with self._changed:
            if isinstance(ask, ForwardAsk):
                session.check_forward(ask)
            else:
                session.check_backward(ask)

    def ask(self, session: Session, ask: Ask) -> None:
        """Work for the body, unless it is known already; raises MalformedMessage or OversizeMessage."""
        with self._changed:
            if session.closed:
                return
            if isinstance(ask, ForwardAsk):
                entry = session.forward(ask)
                way: Way = "forward"
            else:
                entry, way = session.backward(ask), "backward"
            # What the client knows already is kept for its gradient alone.
            if entry is not None and not (way == "forward" and entry.ask.silent):
                self._waiting.append(Job(entry, way, time.monotonic()))
                self._changed.notify()

    def acknowledge(self, session: Session, number: int, way: Way) -> None:
        """The client has an answer."""
        with self._changed:
            session.acknowledge(number, way)

    def held(self, session: Session) -> tuple[list[int], list[int]]:
        """The numbers whose forward, and those whose backward, need not be sent again."""
        with self._changed:
            return session.held()

    def next_answer(self, session: Session) -> Answer | None:
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
            self._drop_jobs(session)

    def sweep(self) -> None:
        """Forget sessions that have been without a connection for too long."""
        with self._changed:
            now = time.monotonic()
            for client in [c for c, since in self._away.items() if now - since >= self.limits.away_s]:
                self._end(client)

    def sessions(self) -> Mapping[str, Session]:
        """The sessions by client, to look at."""
        with self._changed:
            return dict(self._sessions)

    # -- the body's side

    def start(self) -> None:
        """Let a thread do the work."""
        self._thread = threading.Thread(target=self._run, name="fedtune-body", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and free everything."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        with self._changed:
            for client in list(self._sessions):
                self._end(client)

    def work(self, *, linger: bool = False) -> bool:
        """Do what can be done in one pass, in this thread; False where nothing waits."""
        with self._changed:
            now = time.monotonic() if linger else float("inf")
            jobs, _ = self._batching.choose(self._waiting, len(self._heard), now)
            if not jobs:
                return False
            self._take(jobs)
        self._do(jobs)
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                jobs: list[Job] = []
                while not jobs and not self._stopping:
                    jobs, wait_s = self._batching.choose(self._waiting, len(self._heard), time.monotonic())
                    if not jobs:
                        self._changed.wait(None if wait_s == float("inf") else wait_s)
                if self._stopping:
                    return
                self._take(jobs)
            self._do(jobs)

    def _take(self, jobs: list[Job]) -> None:
        self._waiting = [job for job in self._waiting if job not in jobs]
        self.passes += jobs[0].way == "forward"
        for job in jobs:
            job.entry.session.served = self.passes

    def _do(self, jobs: list[Job]) -> None:
        do = self._forward if jobs[0].way == "forward" else self._backward
        try:
            do([job.entry for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                self._fail(jobs[0].entry, error)
                return
            # Whose fault it is shows when each is alone; the others have their answers then.
            with self._changed:
                for job in jobs:
                    if job.entry.graph is not None:
                        job.entry.graph.drop()
            for job in jobs:
                self._do([job])

    def _forward(self, entries: list[Entry]) -> None:
        inputs = self._read(entries, self._engine.read)
        if not inputs:
            return
        keep = entries[0].ask.gradient is not None
        made = self._engine.run(inputs, keep=keep)
        answers = {entry: self._pack(entry, "forward", made.output_of(entry)) for entry in inputs}
        with self._changed:
            self._answer(answers)
            if not (keep and all(entry.session.keep(entry, made) for entry in inputs)):
                made.drop()

    def _backward(self, entries: list[Entry]) -> None:
        given = self._read(entries, self._read_gradient)
        if not given:
            return
        with self._changed:
            graph = entries[0].graph
            back = graph.back(given.keys()) if isinstance(graph, Pass) else None
        if back is None:
            (entry,) = given
            back = self._engine.run({entry: self._engine.read(entry)}, keep=True).back([entry])
        answers = {entry: self._pack(entry, "backward", tensor) for entry, tensor in back.run(given).items()}
        with self._changed:
            self._answer(answers)

    def _read(self, entries: list[Entry], read: Callable[[Entry], _T]) -> dict[Entry, _T]:
        """What was sent, decoded; who sent what cannot be decoded is told."""
        found = {}
        for entry in entries:
            try:
                found[entry] = read(entry)
            except FedtuneError as error:
                self._fail(entry, error)
        return found

    def _read_gradient(self, entry: Entry) -> torch.Tensor:
        if entry.back is None:
            raise MalformedMessage(f"no gradient came for micro-batch {entry.ask.number}")
        return self._engine.coding.unpack(entry.back.gradient, self._engine.device)

    def _pack(self, entry: Entry, way: Way, tensor: torch.Tensor) -> Answer:
        return Answer(entry.ask.number, way, self.coding.pack(tensor))

    def _fail(self, entry: Entry, error: Exception) -> None:
        with self._changed:
            entry.session.fail(error if isinstance(error, FedtuneError) else _told(entry, error))
            self._drop_jobs(entry.session)
            self._tell(entry.session)

    # -- with the lock held

    def _answer(self, answers: Mapping[Entry, Answer]) -> None:
        for entry, answer in answers.items():
            entry.session.answer(entry, answer)
            self._tell(entry.session)

    def _end(self, client: str) -> None:
        session = self._sessions.pop(client, None)
        self._away.pop(client, None)
        if session is not None:
            session.close()
            self._drop_jobs(session)
            self._tell(session)
            self._heard.pop(session, None)

    def _drop_jobs(self, session: Session) -> None:
        self._waiting = [job for job in self._waiting if job.entry.session is not session]

    def _tell(self, session: Session) -> None:
        if (heard := self._heard.get(session)) is not None:
            heard()


def _told(entry: Entry, error: Exception) -> TrainingError:
    """What a client is told; the rest of the story may hold its own or others' data, and is for the log."""
    _log.error("a micro-batch of %s could not be computed", entry.session.client, exc_info=error)
    batch, tokens, _ = entry.ask.hidden.shape
    return TrainingError(
        f"the coordinator could not compute a micro-batch of {batch} rows of {tokens} tokens "
        f"({type(error).__name__}); its log says more; lower training.batch_size where memory is short"
    )
