"""Worker processes for virtual clients: forked, so that they share the base model's memory, one thread each.

Two processes of one thread are faster than one process of two: a client's matrices are too small to be shared out.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Protocol

import torch

from fedtune.errors import RunError

_AHEAD = 2
"""Jobs taken on for each worker before the first of their replies is collected."""


class Answers(Protocol):
    """What answers tasks: a workplace, or workers that each hold one."""

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        """The replies of (client, task) pairs, in order."""
        ...


def default_workers(device: torch.device) -> int:
    """One a core on a CPU; on a GPU one, which the clients share."""
    return len(os.sched_getaffinity(0)) if device.type == "cpu" and hasattr(os, "sched_getaffinity") else 1


class Workers:
    """A few forks of this process that answer tasks side by side.

    Guarantees: replies come in the order of the jobs and are those of one process; no more than a few are held at once.
    Fork before anything else in this process has used torch's threads: set them to one first.
    """

    def __init__(self, answers: Answers, count: int) -> None:
        self._ends: list[Connection] = []
        self._processes = [self._fork(answers) for _ in range(count)]

    def answer_all(self, jobs: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
        """The replies, in order; raises RunError where a worker has died."""
        idle, running = deque(self._ends), dict[Connection, int]()
        done: dict[int, bytes] = {}
        given = 0
        try:
            for position in range(len(jobs)):
                while position not in done:
                    while idle and given < min(len(jobs), position + _AHEAD * len(self._ends)):
                        end = idle.popleft()
                        _give(end, jobs[given])
                        running[end] = given
                        given += 1
                    _collect(running, done, idle)
                yield done.pop(position)
        finally:
            while running:
                _collect(running, done, idle)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(timeout=1.0)
            process.kill()

    def _fork(self, answers: Answers) -> multiprocessing.Process:
        ours, theirs = multiprocessing.Pipe()
        self._ends.append(ours)
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_serve, args=(answers, theirs, tuple(self._ends)), daemon=True)
        process.start()
        theirs.close()
        return process  # type: ignore[return-value]  # typeshed gives each start method a class of its own


def _serve(answers: Answers, end: Connection, parents: tuple[Connection, ...]) -> None:
    """A worker's life: until the pipe closes, which it does when the parent ends, however it ends."""
    for parent in parents:
        parent.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard's interrupt is the parent's affair
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        while True:
            client = end.recv_bytes().decode()
            end.send_bytes(next(answers.answer_all([(client, end.recv_bytes())])))
    except (EOFError, OSError):
        return


def _give(end: Connection, job: tuple[str, bytes]) -> None:
    client, task = job
    try:
        end.send_bytes(client.encode())
        end.send_bytes(task)
    except OSError as error:
        raise _died() from error


def _collect(running: dict[Connection, int], done: dict[int, bytes], idle: deque[Connection]) -> None:
    """Take in what is ready, waiting for at least one reply."""
    for end in wait(list(running)):
        if not isinstance(end, Connection):
            continue
        position = running.pop(end)
        try:
            done[position] = end.recv_bytes()
        except (EOFError, OSError) as error:
            raise _died() from error
        idle.append(end)


def _died() -> RunError:
    return RunError("a worker process died, perhaps for want of memory; go on with --resume and fewer --workers")
