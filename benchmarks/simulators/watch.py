"""The CPU seconds of a process and all that it starts, looked at from outside while they live."""

import threading

import psutil

EVERY_S = 0.2


class Watch:
    """Looks at a tree of processes a few times a second: Ray's processes tell nobody what they took when they end."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: dict[psutil.Process, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """The CPU seconds of every process that was seen, each as it was last seen."""
        self._over.set()
        self._thread.join()
        self._look()
        return sum(self._seen.values())

    def _work(self) -> None:
        while not self._over.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        try:
            tree = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in tree:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            self._seen[process] = times.user + times.system
