"""Workers answer in order and as one process would; they end with their parent, and a dead one is a sentence."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedtune.errors import RunError
from simulations.groups import singly
from simulations.workers import Workers


class Echo:
    """Answers a task with the client's name and the task reversed; `slow` naps, `dies` ends its process."""

    def answer_all(self, jobs):
        for client, task in jobs:
            if client == "slow":
                time.sleep(0.2)
            if client == "dies":
                os._exit(9)
            yield client.encode() + b":" + task[::-1]


def test_replies_come_in_the_order_of_the_jobs():
    jobs = [("slow" if i % 3 == 0 else f"c{i}", bytes([i]) * (1 + i * 1000)) for i in range(12)]
    with Workers(Echo(), 3, singly) as workers:
        assert list(workers.answer_all(jobs)) == list(Echo().answer_all(jobs))
        assert list(workers.answer_all([])) == []


def test_work_that_nobody_collects_does_not_disturb_the_next():
    with Workers(Echo(), 2, singly) as workers:
        unfinished = workers.answer_all([("slow", b"ab")] * 6)
        assert next(unfinished) == b"slow:ba"
        unfinished.close()
        assert list(workers.answer_all([("c", b"xyz")])) == [b"c:zyx"]


def test_a_worker_that_dies_is_one_sentence():
    with Workers(Echo(), 2, singly) as workers, pytest.raises(RunError, match="fewer --workers"):
        list(workers.answer_all([("c", b"a"), ("dies", b"b"), ("c", b"c")]))


@pytest.mark.processes
def test_workers_end_when_their_parent_is_killed(tmp_path: Path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\nfrom simulations.workers import Workers\n"
        "workers = Workers(None, 3, lambda jobs: [])\n"
        "print(*[p.pid for p in workers._processes], flush=True)\ntime.sleep(60)\n"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    ) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
