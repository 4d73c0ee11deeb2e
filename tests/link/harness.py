"""What the link's tests share: keys, messages, a client as a process, a proxy that cuts connections."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flwr.app import Array, ArrayRecord, Message, RecordDict

from client.link import ClientKeys, LinkClient
from client.link.backoff import Backoff
from protos import flower
from server.keys import KeyFolder, ServerKeys
from server.link import CoordinatorLimits, LinkGrid

ROOT = Path(__file__).resolve().parents[2]
QUICK = CoordinatorLimits(
    heartbeat_s=0.2, away_s=1.0, hello_timeout_s=1.0, chunk_bytes=64 << 10, window_bytes=256 << 10
)


def content(payload: bytes) -> RecordDict:
    """One opaque array, as an update travels."""
    return RecordDict({"arrays": ArrayRecord({"raw": Array("uint8", (len(payload),), "fedtune.test", payload)})})


def payload_of(message: Message) -> bytes:
    """What `content` holds."""
    return message.content["arrays"]["raw"].data


def echo(message: Message) -> Message:
    """The payload, sent back reversed."""
    return flower.make_reply(content(payload_of(message)[::-1]), to=message)


def ask(grid: LinkGrid, payload: bytes, names: list[str] | None = None) -> list[Message]:
    """A message for each of these clients, or for all that are connected."""
    ids = [flower_id(name) for name in names] if names else grid.get_node_ids()
    shared = content(payload)
    return [flower.make_message(shared, node_id, "train") for node_id in ids]


def flower_id(name: str) -> int:
    """The node id of a client's name."""
    from protos.names import node_id

    return node_id(name)


def eventually(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait until something is so; fails the test where it does not come."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@contextlib.contextmanager
def coordinator(keys: KeyFolder | None = None, limits: CoordinatorLimits = QUICK) -> Iterator[LinkGrid]:
    """A grid on a free port of loopback."""
    with LinkGrid("127.0.0.1:0", ServerKeys(keys.folder) if keys else None, run_id=7, limits=limits) as grid:
        yield grid


class ClientThread:
    """A client in this process; `ended` holds what `run` returned or raised."""

    def __init__(
        self,
        address: object,
        keys: KeyFolder | None,
        name: str,
        handle: Callable[[Message], Message] = echo,
        *,
        retry_for_s: float = 10.0,
        max_message_bytes: int = 1 << 30,
    ) -> None:
        bundle = ClientKeys(keys.bundle(name)) if keys else None
        self.told: list[str] = []
        self.ended: object = None
        self.client = LinkClient(
            str(address),
            bundle,
            handle,
            name=name,
            retry_for_s=retry_for_s,
            max_message_bytes=max_message_bytes,
            backoff=Backoff(0.02, 0.2),
            told=self.told.append,
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.ended = self.client.run()
        except BaseException as error:
            self.ended = error

    def join(self, timeout_s: float = 10.0) -> object:
        """How the client ended."""
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), "the client did not end"
        return self.ended

    def __enter__(self) -> "ClientThread":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop()
        self.thread.join(5)


class ClientProcess:
    """A client in a process of its own; each call of its handler adds a line to `log`."""

    def __init__(self, address: object, keys: KeyFolder, name: str, log: Path, *, work_s: float = 0.0) -> None:
        self.log = log
        arguments = [str(address), str(keys.bundle(name)), str(log), str(work_s)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/link/echo_client.py"), *arguments], env=environment
        )

    @property
    def calls(self) -> int:
        """How often the handler was called, over all processes that share the log."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def kill(self) -> None:
        """As a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def __enter__(self) -> "ClientProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)


class Proxy:
    """Passes TCP on, counts bytes, and cuts all connections once `cut_after` bytes have passed in a direction.

    After such a cut comes the next, so many bytes later in that direction, for each number in `cut_again`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.passed = {"up": 0, "down": 0}
        self.cut_after: dict[str, int] = {}
        self.cut_again: list[int] = []
        self.cuts = 0
        self.frozen = threading.Event()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._open |= {near, far}
                for source, sink, way in ((near, far, "up"), (far, near, "down")):
                    threading.Thread(target=self._pump, args=(source, sink, way), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                self.passed[way] += len(data)
                if self.passed[way] >= self.cut_after.get(way, 1 << 62):
                    del self.cut_after[way]
                    if self.cut_again:
                        self.cut_after[way] = self.passed[way] + self.cut_again.pop()
                    self.cut()
                    return
                while self.frozen.is_set():
                    time.sleep(0.01)
                sink.sendall(data)
        self._shut(source, sink)

    def cut(self) -> None:
        """Cut what is connected now."""
        self.cuts += 1
        self._shut(*list(self._open))

    def _shut(self, *sockets: socket.socket) -> None:
        for one in sockets:
            self._open.discard(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._shut(*list(self._open))
