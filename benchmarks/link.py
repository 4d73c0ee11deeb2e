"""What the link costs on loopback under TLS, beside a bare gRPC stream in the same run: `python benchmarks/link.py`.

(a) A round of 8 clients that do nothing. (b) Uploads of 1 MiB from 16 streams in two processes, with the coordinator's
memory over time; the floor is the same streams, certificates and bytes with nothing but gRPC in between.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import psutil
from flwr.app import Array, ArrayRecord, Message, RecordDict

from client.link import ClientKeys, LinkClient
from client.link.channel import OPTIONS
from protos import flower
from protos.allocator import keep_freed_memory
from protos.fedtune.v1 import link_pb2, link_pb2_grpc
from protos.names import node_id
from server.keys import KeyFolder, ServerKeys
from server.link import CoordinatorLimits, LinkGrid

MIB = 1 << 20
STREAMS, PROCESSES, IDLE = 16, 2, 8


def content(size: int) -> RecordDict:
    array = Array("uint8", (size,), "fedtune.bench", os.urandom(size))
    return RecordDict({"arrays": ArrayRecord({"raw": array})})


# -- client processes


def run_clients(address: str, folder: Path, names: list[str], size: int) -> None:
    keep_freed_memory()
    answer = content(size)

    def handle(message: Message) -> Message:
        return flower.make_reply(answer, to=message)

    clients = [LinkClient(address, ClientKeys(folder / "clients" / name), handle) for name in names]
    in_threads([client.run for client in clients])


def run_floor_clients(address: str, folder: Path, names: list[str], size: int) -> None:
    data = os.urandom(size)

    def stream(name: str) -> None:
        room = threading.Semaphore(2)

        def frames():  # type: ignore[no-untyped-def]
            while True:
                room.acquire()
                frame = link_pb2.ClientFrame()
                frame.chunk.data = data
                yield frame

        credentials = ClientKeys(folder / "clients" / name).grpc()
        with grpc.secure_channel(address, credentials, options=OPTIONS) as channel:
            try:
                for _ in link_pb2_grpc.LinkStub(channel).Connect(frames()):
                    room.release()
            except grpc.RpcError:
                room.release(2)

    in_threads([lambda name=name: stream(name) for name in names])


def in_threads(work: list) -> None:  # type: ignore[type-arg]
    with ThreadPoolExecutor(len(work)) as pool:
        list(pool.map(lambda function: function(), work))


ROLES = {"link": run_clients, "floor": run_floor_clients}


def start(role: str, address: str, folder: Path, names: list[str], size: int) -> list[subprocess.Popen[bytes]]:
    shares = [names[i::PROCESSES] for i in range(PROCESSES)]
    jobs = [
        json.dumps({"role": role, "address": address, "folder": str(folder), "names": s, "size": size}) for s in shares
    ]
    return [subprocess.Popen([sys.executable, __file__, "--job", job]) for job in jobs]


# -- coordinator


def cpu_ms(processes: list[subprocess.Popen[bytes]]) -> tuple[float, float]:
    """CPU milliseconds so far: this process's, and those of all clients."""
    times = [psutil.Process(pid).cpu_times() for pid in (os.getpid(), *(process.pid for process in processes))]
    used = [1000 * (t.user + t.system) for t in times]
    return used[0], sum(used[1:])


def rss_mib() -> float:
    return psutil.Process().memory_info().rss / MIB


def round_overhead(folder: Path, rounds: int) -> float:
    """Median seconds of a round whose clients answer at once."""
    names = [f"client-{i}" for i in range(1, IDLE + 1)]
    with LinkGrid("127.0.0.1:0", ServerKeys(folder)) as grid:
        processes = start("link", str(grid.address), folder, names, 16)
        wait_for(grid, IDLE)
        shared, seconds = content(64 << 10), []
        for _ in range(rounds):
            begin = time.perf_counter()
            messages = [flower.make_message(shared, n, "train") for n in grid.get_node_ids()]
            replies = grid.send_and_receive(messages, timeout=30)
            seconds.append(time.perf_counter() - begin)
            assert len(replies) == IDLE
    end(processes)
    return statistics.median(seconds)


@dataclass(frozen=True)
class Measured:
    """Uploads a second, CPU milliseconds an upload at the coordinator and at all clients, the coordinator's MiB."""

    rate: float
    server_ms: float
    client_ms: float
    memory_mib: list[float]


def measured(count: int, begin: float, before: tuple[float, float], after: tuple[float, float]) -> Measured:
    rate = count / (time.perf_counter() - begin)
    return Measured(rate, (after[0] - before[0]) / count, (after[1] - before[1]) / count, [])


def uploads(folder: Path, seconds: float) -> Measured:
    """What the link carries."""
    names = [f"client-{i}" for i in range(1, STREAMS + 1)]
    with LinkGrid("127.0.0.1:0", ServerKeys(folder), limits=CoordinatorLimits(chunk_bytes=MIB)) as grid:
        processes = start("link", str(grid.address), folder, names, MIB)
        wait_for(grid, STREAMS)
        shared = content(16)
        ask = [flower.make_message(shared, node_id(name), "train") for name in names for _ in range(2)]
        open_ids = set(grid.push_messages(ask))
        done, memory, begin, before = 0, [], 0.0, (0.0, 0.0)
        while begin == 0.0 or time.perf_counter() - begin < seconds:
            grid.wait(5)
            replies = grid.pull_messages(open_ids)
            open_ids -= {reply.metadata.reply_to_message_id for reply in replies}
            again = [flower.make_message(shared, reply.metadata.src_node_id, "train") for reply in replies]
            open_ids.update(grid.push_messages(again))
            done += len(replies)
            if begin == 0.0 and done >= 4 * STREAMS:
                begin, done, before = time.perf_counter(), 0, cpu_ms(processes)
            if begin and time.perf_counter() - begin >= len(memory) * seconds / 4:
                memory.append(rss_mib())
        result = replace(measured(done, begin, before, cpu_ms(processes)), memory_mib=memory)
    end(processes)
    return result


class Floor(link_pb2_grpc.LinkServicer):
    """Counts chunks and acknowledges each: nothing less can carry them."""

    def __init__(self) -> None:
        self.count = 0

    async def Connect(self, request_iterator, context):  # type: ignore[no-untyped-def] # noqa: D102, N802
        del request_iterator
        while isinstance(frame := await context.read(), link_pb2.ClientFrame):
            self.count += len(frame.chunk.data) > 0
            await context.write(link_pb2.ServerFrame(ack=link_pb2.Ack(done=True)))


def floor_rate(folder: Path, seconds: float) -> Measured:
    """What bare gRPC streams carry."""
    import asyncio

    async def measure() -> Measured:
        floor = Floor()
        server = grpc.aio.server(options=OPTIONS)
        link_pb2_grpc.add_LinkServicer_to_server(floor, server)
        port = server.add_secure_port("127.0.0.1:0", ServerKeys(folder).grpc())
        await server.start()
        names = [f"client-{i}" for i in range(1, STREAMS + 1)]
        processes = start("floor", f"127.0.0.1:{port}", folder, names, MIB)
        while floor.count < 4 * STREAMS:
            await asyncio.sleep(0.01)
        count, begin, before = floor.count, time.perf_counter(), cpu_ms(processes)
        await asyncio.sleep(seconds)
        result = measured(floor.count - count, begin, before, cpu_ms(processes))
        for process in processes:
            process.kill()
        await server.stop(1)
        return result

    return asyncio.run(measure())


def wait_for(grid: LinkGrid, count: int) -> None:
    while len(grid.get_node_ids()) < count:
        time.sleep(0.05)


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="how long to upload")
    parser.add_argument("--rounds", type=int, default=30, help="how many rounds to time")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        ROLES[job["role"]](job["address"], Path(job["folder"]), job["names"], job["size"])
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "keys"
        KeyFolder(folder).init([], [f"client-{i}" for i in range(1, STREAMS + 1)])
        overhead = round_overhead(folder, options.rounds)
        print(f"round overhead, {IDLE} idle clients, TLS     {overhead * 1000:8.1f} ms    (bar 200 ms)", flush=True)
        floor, link = floor_rate(folder, options.seconds), uploads(folder, options.seconds)
        for name, result, bar in (("bare gRPC streams", floor, ""), ("uploads", link, "(bar 200 /s)")):
            print(f"{name} of 1 MiB, {STREAMS} streams, TLS".ljust(40) + f" {result.rate:8.0f} /s    {bar}")
            print(f"    CPU: coordinator {result.server_ms:.1f} ms, client {result.client_ms:.1f} ms each")
        print(f"share of the floor                       {link.rate / floor.rate:8.2f}")
        print("coordinator's memory over the uploads    " + " ".join(f"{m:.0f}" for m in link.memory_mib) + " MiB")


if __name__ == "__main__":
    main()
