"""What travels between a run and its actors: groups of tasks and their replies, each as one string of bytes."""

import struct
from collections.abc import Iterable, Iterator

from simulations.groups import Jobs


def join(parts: Iterable[bytes]) -> bytes:
    """Parts end to end, each behind its length (u64, little-endian)."""
    return b"".join(piece for part in parts for piece in (struct.pack("<Q", len(part)), part))


def split(whole: bytes) -> list[bytes]:
    """The parts that were joined; raises ValueError where the bytes end amid one."""
    parts, at = [], 0
    while at < len(whole):
        if at + 8 > len(whole):
            raise ValueError("the bytes end amid a length")
        (size,) = struct.unpack_from("<Q", whole, at)
        at += 8 + size
        if at > len(whole):
            raise ValueError("the bytes end amid a part")
        parts.append(whole[at - size : at])
    return parts


def join_jobs(group: Jobs) -> bytes:
    """Each job's client and task; of a task that is the one before nothing is sent."""

    def parts() -> Iterator[bytes]:
        before = b""
        for client, task in group:
            yield client.encode()
            yield b"" if task == before else task
            before = task

    return join(parts())


def split_jobs(whole: bytes) -> Jobs:
    """The jobs that were joined; those with the same task share one object."""
    parts = split(whole)
    jobs: list[tuple[str, bytes]] = []
    for client, task in zip(parts[::2], parts[1::2], strict=True):
        jobs.append((client.decode(), task or jobs[-1][1]))
    return jobs
