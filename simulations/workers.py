"""Worker processes for virtual clients: forked, so that they share the base model's memory, one thread each.

Two processes of one thread are faster than one process of two: a client's matrices are too small to be shared out.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from types import TracebackType

import torch

from fedtune.errors import RunError
from simulations.dealt import Deal
from simulations.groups import Answers, Cut, Jobs, cores

_AHEAD = 2
"""Groups taken on for each worker before the first of their replies is collected."""


def default_workers(device: torch.device) -> int:
    """One a core on a CPU; on a GPU one, which the clients share."""
    return cores() if device.type == "cpu" else 1


class Workers:
    """A few forks of this process that answer tasks side by side, a group of clients at a time.

    Guarantees: replies come in the order of the jobs and are those of one process that is handed the same groups; no
    more than a few groups of them are held at once.
    Fork before anything else in this process has used torch's threads: set them to one first.
    """

    def __init__(self, answers: Answers, count: int, cut: Cut) -> None:
        """`cut` says which jobs are handed out together."""
        self._cut = cut
        self._ends: list[Connection] = []
        self._processes = [self._fork(answers) for _ in range(count)]

    def answer_all(self, jobs: Jobs) -> Iterator[bytes]:
        """The replies, in order; raises RunError where a worker has died."""
        deal = Deal(jobs, self._cut, _AHEAD * len(self._ends))
        idle, running = deque(self._ends), dict[Connection, deque[int]]()
        try:
            while not deal.is_done:
                while idle and (group := deal.hand_out()) is not None:
                    _give(idle[0], deal.jobs(group))
                    running[idle.popleft()] = deque(group)
                _collect(running, deal, idle)
                yield from deal.take()
        finally:
            while running:
                _collect(running, deal, idle)

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
            for reply in answers.answer_all(_take(end)):
                end.send_bytes(reply)
    except (EOFError, OSError):
        return


def _give(end: Connection, group: Jobs) -> None:
    """Hand out a group: how many, and each one's name and task; of a task that is the one before nothing is sent."""
    before = b""
    try:
        end.send_bytes(str(len(group)).encode())
        for client, task in group:
            end.send_bytes(client.encode())
            end.send_bytes(b"" if task == before else task)
            before = task
    except OSError as error:
        raise _died() from error


def _take(end: Connection) -> Jobs:
    """What `_give` has sent, all of it, before anything is answered: two ends that both send would wait for ever."""
    jobs: list[tuple[str, bytes]] = []
    for _ in range(int(end.recv_bytes())):
        client, task = end.recv_bytes().decode(), end.recv_bytes()
        jobs.append((client, task or jobs[-1][1]))
    return jobs


def _collect(running: dict[Connection, deque[int]], deal: Deal, idle: deque[Connection]) -> None:
    """Take in what is ready, waiting for at least one reply; who has sent all of a group's is idle."""
    for end in wait(list(running)):
        if not isinstance(end, Connection):
            continue
        try:
            reply = end.recv_bytes()
        except (EOFError, OSError) as error:
            del running[end]
            raise _died() from error
        deal.bring(running[end].popleft(), reply)
        if not running[end]:
            del running[end]
            idle.append(end)


def _died() -> RunError:
    return RunError("a worker process died, perhaps for want of memory; go on with --resume and fewer --workers")
