"""A body over a real stream under mutual TLS: exact, limited, resumed after cuts, and closed to those it is not for."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from client.link import ClientKeys
from client.link.backoff import Backoff
from client.link.channel import OPTIONS
from client.split import remote_bodies
from fedtune.errors import EnrolmentError, OversizeMessage, TransportError
from fedtune.split.activations import roundtrip
from fedtune.split.asks import Coding
from fedtune.split.base import OpenBody, Share, Smashed, Wants
from fedtune.split.batching import Batching
from fedtune.split.limits import SplitLimits
from fedtune.split.serve import BodyServer
from fedtune.split.session import Session
from protos import flower
from protos.fedtune.v1.link_pb2 import Hello
from protos.fedtune.v1.split_pb2 import Open, SplitClientFrame
from protos.fedtune.v1.split_pb2_grpc import SplitStub
from protos.limits import PROTOCOL
from protos.split import frames_of_ask
from server.keys import KeyFolder, ServerKeys
from server.link import CoordinatorLimits, LinkGrid
from server.split import SplitService
from tests.link.harness import ROOT, Proxy, content, eventually, flower_id
from tests.split.bodies import WIDTH, Mixer, by_hand, forward_ask, tensor

LIMITS = CoordinatorLimits(heartbeat_s=0.4, away_s=60, hello_timeout_s=5, chunk_bytes=300, window_bytes=1 << 16)
ROUND = 3
WANTS = Wants(output=slice(0, 2), gradient=slice(1, None))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyFolder:
    folder = KeyFolder(Path(tmp_path_factory.mktemp("split")) / "keys")
    folder.init([], ["a", "b", "c", "d"])
    return folder


class Served:
    """A coordinator whose body is served to those it asks."""

    def __init__(self, grid: LinkGrid, server: BodyServer) -> None:
        self.grid = grid
        self.server = server
        self.asked: list[str] = []

    def ask(self, *names: str) -> list[str]:
        """Send these clients a message of the round, which none of them will answer."""
        messages = [flower.make_message(content(b"task"), flower_id(n), "train", group_id=str(ROUND)) for n in names]
        self.asked = self.grid.push_messages(messages)
        return self.asked

    def session(self, name: str) -> Session | None:
        return self.server.sessions().get(name)


@contextmanager
def served(
    keys: KeyFolder | None,
    *names: str,
    address: str = "127.0.0.1:0",
    coding: Coding | None = None,
    batching: Batching | None = None,
    **limits: Any,
) -> Iterator[Served]:
    server = BodyServer(Mixer(), WIDTH, coding=coding, batching=batching, limits=SplitLimits(**limits))
    service = SplitService(server, "the-body", run=lambda: "run")
    bundle = ServerKeys(keys.folder) if keys else None
    with LinkGrid(address, bundle, limits=LIMITS, beside=[service]) as grid:
        there = Served(grid, server)
        there.ask(*names)
        yield there


def bodies(address: object, keys: KeyFolder | None, name: str, **options: Any) -> OpenBody:
    bundle = ClientKeys(keys.bundle(name)) if keys else None
    return remote_bodies(
        str(address),
        bundle,
        retry_for_s=options.pop("retry_for_s", 10.0),
        backoff=lambda: Backoff(0.02, 0.1),
        **options,
    )


def share(name: str, round_: int = ROUND, run: str = "run") -> Share:
    return Share(run, round_, name)


def step(body: Any, numbers: range, rows: int = 2, tokens: int = 4) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Micro-batches in flight together, there and back; output and gradient by number."""
    smashed = {n: Smashed(tensor(n, rows, tokens, WIDTH), _mask(n, rows, tokens)) for n in numbers}
    there = {n: body.forward(n, one, WANTS, train=True) for n, one in smashed.items()}
    outputs = {n: pending.result() for n, pending in there.items()}
    back = {n: body.backward(n, _given(n, rows)) for n in numbers}
    return {n: (outputs[n], pending.result()) for n, pending in back.items()}


def expected(numbers: range, rows: int = 2, tokens: int = 4) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """The same in this process."""
    found = {}
    for n in numbers:
        whole = by_hand(Mixer(), tensor(n, rows, tokens, WIDTH), _mask(n, rows, tokens), _given(n, rows))
        found[n] = whole[0][:, 0:2], whole[1][:, 1:]
    return found


def _mask(number: int, rows: int, tokens: int) -> torch.Tensor | None:
    if number % 2:
        return None
    mask = torch.ones(rows, tokens, dtype=torch.int64)
    mask[0, -1] = 0
    return mask


def _given(number: int, rows: int) -> torch.Tensor:
    return tensor(100 + number, rows, 2, WIDTH)


def same(one: dict[int, Any], other: dict[int, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(a, b) for n in one for a, b in zip(one[n], other[n], strict=True)
    )


def test_over_the_stream_is_as_in_one_process_to_the_last_bit(keys: KeyFolder) -> None:
    with served(keys, "a") as there:
        body = bodies(there.grid.address, keys, "a")(share("a"))
        assert body.in_flight == 64
        assert same(step(body, range(5)), expected(range(5)))
        plain = Smashed(tensor(7, 2, 50, WIDTH))  # a tensor of several frames, nothing to come back
        answer = body.forward(9, plain, Wants(gradient=None), train=False)
        assert torch.equal(answer.result(), Mixer()(plain.hidden))
        session = there.session("a")
        eventually(lambda: session and session.held_bytes == 0)
        assert body.kept_bytes == 0
        body.close()
        body.close()
        eventually(lambda: there.session("a") is None)


@pytest.mark.parametrize("kind", ["fp16", "bf16", "int8", "topk"])
def test_each_codec_is_applied_on_every_crossing(kind: Any) -> None:
    coding = Coding(kind, 0.5)
    with served(None, "a", coding=coding) as there:
        body = bodies(there.grid.address, None, "a")(share("a"))
        ((output, by_input),) = step(body, range(1, 2)).values()
        body.close()
    hidden, given = roundtrip(tensor(1, 2, 4, WIDTH), kind, 0.5), roundtrip(_given(1, 2), kind, 0.5)
    whole = by_hand(Mixer(), hidden, None, given)
    assert torch.equal(output, roundtrip(whole[0][:, 0:2], kind, 0.5))
    assert torch.equal(by_input, roundtrip(whole[1][:, 1:], kind, 0.5))


def test_four_clients_at_once_get_their_own_numbers(keys: KeyFolder) -> None:
    together = Batching(max_tokens=4096, linger_s=0.01, max_waste=0.5)
    with served(keys, *"abcd", batching=together) as there:
        opened = [bodies(there.grid.address, keys, name)(share(name)) for name in "abcd"]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda i: step(opened[i], range(i, i + 6)), range(4)))
        for i, result in enumerate(results):
            for n, pair in expected(range(i, i + 6)).items():
                torch.testing.assert_close(result[n], pair)
        assert there.server.passes < 24
        for body in opened:
            body.close()
        eventually(lambda: not there.server.sessions())


@pytest.mark.parametrize("cuts", [{"up": 4000}, {"down": 4000}, {"up": 9000, "down": 6000}])
def test_a_connection_that_is_cut_in_the_middle_resumes(keys: KeyFolder, cuts: dict[str, int]) -> None:
    with served(keys, "a") as there, Proxy("127.0.0.1", there.grid.address.port) as proxy:
        body = bodies(proxy.address, keys, "a")(share("a"))
        proxy.cut_again = [9000, 12000]
        proxy.cut_after = {way: proxy.passed[way] + more for way, more in cuts.items()}
        for begin in range(0, 24, 6):
            numbers = range(begin, begin + 6)
            assert same(step(body, numbers, 3, 8), expected(numbers, 3, 8))
        assert proxy.cuts >= 2
        body.close()


def test_a_coordinator_that_has_forgotten_everything_is_asked_again(keys: KeyFolder) -> None:
    numbers = range(4)
    with served(keys, "a") as there:
        address = there.grid.address
        body = bodies(address, keys, "a")(share("a"))
        pending = {
            n: body.forward(n, Smashed(tensor(n, 2, 4, WIDTH), _mask(n, 2, 4)), WANTS, train=True) for n in numbers
        }
        outputs = {n: one.result() for n, one in pending.items()}
        back = {0: body.backward(0, _given(0, 2)).result()}
        assert body.kept_bytes > 0
        there.grid.close(None)
    with served(keys, "a", address=str(address)):
        waiting = {n: body.backward(n, _given(n, 2)) for n in (1, 2, 3)}
        back |= {n: one.result() for n, one in waiting.items()}
        assert same({n: (outputs[n], back[n]) for n in numbers}, expected(numbers))
        assert body.kept_bytes == 0
        body.close()


@pytest.mark.processes
def test_a_client_that_is_killed_frees_its_memory(keys: KeyFolder) -> None:
    with served(keys, "a", "b", away_s=0.5) as there:
        other = bodies(there.grid.address, keys, "b")(share("b"))
        with _process(there, keys, "a") as process:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(3)] == [f"(1, 3, {WIDTH})\n"] * 3
            session = there.session("a")
            assert session is not None
            assert session.graphs == 3
            assert session.held_bytes > 0
            process.kill()
            process.wait(10)
            eventually(lambda: session.graphs == 0)
            eventually(lambda: session.closed and session.held_bytes == 0)
        assert set(there.server.sessions()) == {"b"}
        assert same(step(other, range(3)), expected(range(3)))
        other.close()


@contextmanager
def _process(there: Served, keys: KeyFolder, name: str) -> Iterator[subprocess.Popen[str]]:
    arguments = [str(there.grid.address), str(keys.bundle(name)), str(ROUND)]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/integration/split_client.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


# -- who is served


def test_who_is_not_enrolled_is_refused(keys: KeyFolder, tmp_path: Path) -> None:
    foreign = KeyFolder(tmp_path / "foreign")
    foreign.init([], ["a"])
    with served(keys, "a") as there:
        with pytest.raises(EnrolmentError, match="another authority"):
            bodies(there.grid.address, foreign, "a")(share("a"))
        assert not there.server.sessions()


def test_under_tls_the_name_is_the_certificates(keys: KeyFolder) -> None:
    with served(keys, "a") as there:
        body = bodies(there.grid.address, keys, "a")(share("b"))
        assert set(there.server.sessions()) == {"a"}
        body.close()
        with pytest.raises(TransportError, match="b has no share"):
            bodies(there.grid.address, keys, "b")(share("a"))


@pytest.mark.parametrize("asked", [share("b"), share("a", round_=ROUND + 1), share("a", run="another")])
def test_who_was_not_asked_for_this_round_is_refused(asked: Share) -> None:
    with served(None, "a") as there:
        with pytest.raises(TransportError, match="has no share of round"):
            bodies(there.grid.address, None, asked.client)(asked)
        assert not there.server.sessions()


def test_when_the_round_is_over_the_stream_ends_and_everything_is_freed(keys: KeyFolder) -> None:
    with served(keys, "a") as there:
        body = bodies(there.grid.address, keys, "a")(share("a"))
        body.forward(0, Smashed(tensor(0, 1, 3, WIDTH)), Wants(), train=True).result()
        session = there.session("a")
        assert session is not None
        there.grid.forget(there.asked)
        eventually(lambda: session.closed and session.graphs == session.held_bytes == 0)
        with pytest.raises(TransportError, match="may be over"):
            body.backward(0, tensor(1, 1, 3, WIDTH)).result()
        body.close()


def test_a_client_that_is_revoked_loses_the_stream(tmp_path: Path) -> None:
    own = KeyFolder(tmp_path / "own")
    own.init([], ["a"])
    with served(own, "a") as there:
        body = bodies(there.grid.address, own, "a")(share("a"))
        body.forward(0, Smashed(tensor(0, 1, 3, WIDTH)), Wants(), train=True).result()
        own.revoke("a")
        eventually(lambda: there.session("a") is None)
        with pytest.raises(EnrolmentError, match="revoked"):
            body.forward(1, Smashed(tensor(0, 1, 3, WIDTH)), Wants(), train=True).result()
        body.close()


def test_the_second_stream_of_a_client_takes_the_firsts_place(keys: KeyFolder) -> None:
    with served(keys, "a") as there:
        first = bodies(there.grid.address, keys, "a")(share("a"))
        first.forward(0, Smashed(tensor(0, 1, 3, WIDTH)), Wants(), train=True).result()
        former = there.session("a")
        second = bodies(there.grid.address, keys, "a")(share("a"))
        assert former is not None
        assert former.closed
        assert same(step(second, range(2)), expected(range(2)))
        with pytest.raises(TransportError, match="one client a key"):
            first.backward(0, tensor(1, 1, 3, WIDTH)).result()
        first.close()
        second.close()


# -- limits


def test_no_more_than_the_window_is_in_flight(keys: KeyFolder) -> None:
    with served(keys, "a", in_flight=2) as there:
        body = bodies(there.grid.address, keys, "a")(share("a"))
        assert body.in_flight == 2
        pending = [
            body.forward(n, Smashed(tensor(n, 2, 4, WIDTH), _mask(n, 2, 4)), WANTS, train=True) for n in range(6)
        ]
        session = there.session("a")
        assert session is not None
        done = {}
        for n in range(6):
            output = pending[n].result()
            assert len(session.entries) <= 2
            done[n] = output, body.backward(n, _given(n, 2)).result()
        assert same(done, expected(range(6)))
        body.close()


def test_the_client_says_how_much_is_in_flight_at_most(keys: KeyFolder) -> None:
    with served(keys, "a") as there:
        body = bodies(there.grid.address, keys, "a", window=3)(share("a"))
        assert body.in_flight == 3
        body.close()


def test_what_is_too_large_is_not_sent(keys: KeyFolder) -> None:
    with served(keys, "a", max_tensor_bytes=1000) as there:
        body = bodies(there.grid.address, keys, "a")(share("a"))
        with pytest.raises(OversizeMessage, match=r"over the coordinator's limit of 1000.*batch_size"):
            body.forward(0, Smashed(tensor(0, 5, 10, WIDTH)), Wants(), train=True)
        assert same(step(body, range(1, 2)), expected(range(1, 2)))
        body.close()


def test_an_answer_that_does_not_come_is_an_error_that_says_so(keys: KeyFolder) -> None:
    with served(keys, "a") as there:
        there.server._worker._do = lambda _: None  # type: ignore[method-assign]
        body = bodies(there.grid.address, keys, "a", answer_s=0.3)(share("a"))
        with pytest.raises(TransportError, match=r"not answered micro-batch 0 in 0.3 s"):
            body.forward(0, Smashed(tensor(0, 1, 3, WIDTH)), Wants(), train=True).result()
        body.close()


def test_a_coordinator_out_of_reach_is_an_error_after_a_time(keys: KeyFolder) -> None:
    with served(keys, "a") as there:
        body = bodies(there.grid.address, keys, "a", retry_for_s=0.5)(share("a"))
    with pytest.raises(TransportError, match="tried for"):
        body.forward(0, Smashed(tensor(0, 1, 3, WIDTH)), Wants(), train=True).result()
    body.close()
    with pytest.raises(TransportError, match="no coordinator answers"):
        bodies(there.grid.address, keys, "a", retry_for_s=0.2)(share("a"))


def _refusal(there: Served, keys: KeyFolder, *frames: SplitClientFrame) -> str:
    """Why the coordinator ends a stream of these frames."""
    hello = Hello(protocol=PROTOCOL, session="s")
    opening = SplitClientFrame(open=Open(hello=hello, run="run", round=ROUND, window=64))
    done = threading.Event()

    def sent() -> Iterator[SplitClientFrame]:
        yield opening
        yield from frames
        done.wait(10)

    with grpc.secure_channel(str(there.grid.address), ClientKeys(keys.bundle("a")).grpc(), options=OPTIONS) as channel:
        try:
            for frame in SplitStub(channel).Work(sent()):
                if frame.HasField("refusal"):
                    return frame.refusal.reason
        finally:
            done.set()
    return ""


def test_a_client_that_keeps_to_no_limit_is_refused_and_leaves_nothing(keys: KeyFolder) -> None:
    ok = [forward_ask(n, tensor(n, 1, 3, WIDTH)) for n in range(3)]
    with served(keys, "a", "b", in_flight=2, max_tensor_bytes=1000) as there:
        other = bodies(there.grid.address, keys, "b")(share("b"))
        too_large = forward_ask(0, tensor(0, 50, 10, WIDTH))
        cases = {
            "oversize": [frame for ask in ok for frame in frames_of_ask(ask, 300)],
            "malformed": [SplitClientFrame(), *frames_of_ask(ok[0], 300)],
        }
        for reason, frames in cases.items():
            assert _refusal(there, keys, *frames) == reason
            eventually(lambda: set(there.server.sessions()) == {"b"})
        assert _refusal(there, keys, next(frames_of_ask(too_large, 300))) == "oversize"
        damaged = next(frames_of_ask(ok[0], 300))
        damaged.forward.hidden.crc32 ^= 1
        assert _refusal(there, keys, damaged) == "damaged"
        assert same(step(other, range(2)), expected(range(2)))
        other.close()


def test_before_an_open_nothing_is_taken(keys: KeyFolder) -> None:
    ask = forward_ask(0, tensor(0, 1, 3, WIDTH))
    with served(keys, "a") as there:
        bundle = ClientKeys(keys.bundle("a"))
        with grpc.secure_channel(str(there.grid.address), bundle.grpc(), options=OPTIONS) as channel:
            answer = next(SplitStub(channel).Work(frames_of_ask(ask, 300)))
        assert answer.refusal.reason == "malformed"
        assert not there.server.sessions()
