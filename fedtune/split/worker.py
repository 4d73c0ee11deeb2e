"""The one thread that runs torch for a body's clients: it chooses, computes, and hands the answers to the sessions."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from fedtune.errors import FedtuneError, MalformedMessage, TrainingError
from fedtune.split.asks import Answer, Way
from fedtune.split.batching import Batching, Job
from fedtune.split.body_pass import Engine, Pass
from fedtune.split.entry import Entry
from fedtune.split.session import Session

_T = TypeVar("_T")
_log = logging.getLogger("fedtune.split")


class Worker:
    """Guarantees: what a micro-batch fails of ends its own session alone; the others of its pass are computed again.

    Args:
        changed: guards the sessions and what waits; held for everything but torch's work.
        tell: hears, with it held, that a session has an answer or has failed.
        others: how many clients could have something to ask.
    """

    def __init__(
        self,
        engine: Engine,
        batching: Batching,
        changed: threading.Condition,
        tell: Callable[[Session], None],
        others: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._batching = batching
        self._changed = changed
        self._tell = tell
        self._others = others
        self._waiting: list[Job] = []
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.passes = 0
        """How often the body was run forwards for what was asked."""

    def submit(self, entry: Entry, way: Way) -> None:
        """One more thing to compute; with `changed` held."""
        self._waiting.append(Job(entry, way, time.monotonic()))
        self._changed.notify()

    def forget(self, session: Session) -> None:
        """Compute nothing more for this session; with `changed` held."""
        self._waiting = [job for job in self._waiting if job.entry.session is not session]

    def start(self) -> None:
        """Begin to work in a thread."""
        self._thread = threading.Thread(target=self._run, name="fedtune-body", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the pass that it is in."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def work(self) -> bool:
        """Do what can be done in one pass, in this thread; False where nothing waits."""
        with self._changed:
            jobs, _ = self._batching.choose(self._waiting, self._others(), float("inf"))
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
                    jobs, wait_s = self._batching.choose(self._waiting, self._others(), time.monotonic())
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
        return Answer(entry.ask.number, way, self._engine.coding.pack(tensor))

    def _fail(self, entry: Entry, error: Exception) -> None:
        with self._changed:
            entry.session.fail(error if isinstance(error, FedtuneError) else _told(entry, error))
            self.forget(entry.session)
            self._tell(entry.session)

    def _answer(self, answers: Mapping[Entry, Answer]) -> None:
        for entry, answer in answers.items():
            entry.session.answer(entry, answer)
            self._tell(entry.session)


def _told(entry: Entry, error: Exception) -> TrainingError:
    """What a client is told; the rest of the story may hold its own or others' data, and is for the log."""
    _log.error("a micro-batch of %s could not be computed", entry.session.client, exc_info=error)
    batch, tokens, _ = entry.ask.hidden.shape
    return TrainingError(
        f"the coordinator could not compute a micro-batch of {batch} rows of {tokens} tokens "
        f"({type(error).__name__}); its log says more; lower training.batch_size where memory is short"
    )
