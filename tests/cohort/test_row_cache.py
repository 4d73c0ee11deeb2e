"""What is kept of rows: within its budget, on disk beyond it, and never another number than was put there."""

import errno
import multiprocessing
import os
import signal
import stat
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.cohort.cache import RowCache
from fedtune.cohort.spill import DTYPES, Spill, from_bytes, to_bytes

CPU = torch.device("cpu")
ROW = 40


@pytest.fixture(autouse=True, scope="module")
def _nothing_in_passing() -> Iterator[None]:
    """What found no room is gone at once, but where a test says otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedtune.cohort.cache.PASSING_BYTES", 0)
        yield


def row(number: int) -> tuple[torch.Tensor, ...]:
    """Forty bytes that tell the row."""
    return (torch.full((8,), float(number)), torch.tensor([[float(number), -1.0]]))


def kept(cache: RowCache, numbers: Iterable[int]) -> list[bool]:
    """Of each row, whether it is found, and if so, that it is the one that was put there."""
    found = [cache.get(number) for number in numbers]
    assert all(one is None or all(map(torch.equal, one, row(n))) for n, one in zip(numbers, found, strict=True))
    return [one is not None for one in found]


def test_rows_twice_the_room_that_come_round_in_cycles_are_found_every_second_time() -> None:
    cache = RowCache(4 * ROW)
    for _ in range(5):
        for number in range(8):
            if not kept(cache, [number])[0]:
                cache.put(number, row(number))
    assert (cache.counts.memory, cache.counts.missing) == (4 * 4, 8 + 4 * 4)
    assert (cache.bytes, len(cache)) == (4 * ROW, 4)


def test_what_found_no_room_is_found_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedtune.cohort.cache.PASSING_BYTES", 2 * ROW)
    cache = RowCache(ROW)
    for number in (0, 1, 2, 2, 3):
        cache.put(number, row(number))
    assert kept(cache, range(4)) == [True, False, True, True]
    assert (cache.bytes, len(cache)) == (ROW, 1)
    cache.begin("other weights")
    cache.begin(None)
    assert kept(cache, range(4)) == [True, False, False, False]


def test_what_is_put_again_takes_its_own_place() -> None:
    cache = RowCache(2 * ROW)
    for number in (0, 1, 0, 1, 2):
        cache.put(number, row(number))
    assert kept(cache, range(3)) == [True, True, False]
    assert cache.bytes == 2 * ROW


def test_what_is_of_another_kind_makes_room_first() -> None:
    cache = RowCache(3 * ROW)
    for number in range(3):
        cache.put(number, row(number))
    cache.begin("other weights")
    assert kept(cache, range(3)) == [False] * 3
    for number in range(2):
        cache.put(number, row(number))
    assert kept(cache, range(3)) == [True, True, False]
    assert (cache.bytes, len(cache)) == (3 * ROW, 3)
    cache.begin(None)
    assert sum(kept(cache, range(3))) == 1


def test_what_has_no_room_is_not_kept() -> None:
    cache = RowCache(ROW - 1)
    cache.put(0, row(0))
    assert (cache.get(0), cache.bytes) == (None, 0)


def test_what_memory_has_no_room_for_is_read_from_a_disk_where_no_file_is_to_be_seen(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 10**6, CPU)
    cache = RowCache(2 * ROW, spill)
    for number in range(6):
        cache.put(number, row(number))
    for _ in range(2):
        assert kept(cache, range(6)) == [True] * 6
    assert (cache.counts.memory, cache.counts.disk, cache.bytes) == (4, 8, 2 * ROW)
    assert list(tmp_path.iterdir()) == []
    assert spill._file is not None
    status = os.fstat(spill._file.fileno())
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o600, 0)
    cache.close()
    assert kept(cache, range(6)) == [False] * 6


def test_nothing_is_made_on_disk_before_it_is_needed(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "none", 10**6, CPU)
    cache = RowCache(ROW, spill)
    cache.put(0, row(0))
    assert spill._file is None


def test_a_damaged_record_is_as_good_as_none(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 10**6, CPU)
    cache = RowCache(0, spill)
    for number in range(3):
        cache.put(number, row(number))
    assert spill._file is not None
    size = len(to_bytes(row(0)))
    os.pwrite(spill._file.fileno(), b"?", size - 1)
    os.ftruncate(spill._file.fileno(), 3 * size - 1)
    assert kept(cache, range(3)) == [False, True, False]
    cache.put(0, row(0))
    assert kept(cache, range(3)) == [True, True, False]


def test_the_disk_has_a_budget_and_what_is_of_another_kind_makes_room_there_too(tmp_path: Path) -> None:
    size = len(to_bytes(row(0)))
    cache = RowCache(0, Spill(tmp_path, 2 * size, CPU))
    for kind in ("a", "b"):
        cache.begin(kind)
        for number in range(4):
            cache.put(number, row(number))
        assert kept(cache, range(4)) == [True, True, False, False]
    cache.begin("a")
    assert kept(cache, range(4)) == [False] * 4


@pytest.mark.parametrize("fails", ["no folder", "full", "full half way"])
def test_a_disk_that_fails_ends_nothing_and_what_it_holds_is_still_read(
    fails: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = Spill(tmp_path / ("none" if fails == "no folder" else ""), 10**6, CPU)
    cache = RowCache(0, spill)
    for number in range(5):
        if number == 2 and fails == "full":
            monkeypatch.setattr(spill, "_file", Full(spill._file))
        if number == 2 and fails == "full half way":
            monkeypatch.setattr(spill, "_file", Short(spill._file))
        cache.put(number, row(number))
    assert [record.message.startswith("nothing more is kept of rows") for record in caplog.records] == [True]
    assert kept(cache, range(5)) == [fails != "no folder"] * 2 + [False] * 3


class Full:
    """A file on a disk without room."""

    def __init__(self, file: FileIO | None) -> None:
        assert file is not None
        self._file = file
        self.seek, self.read = file.seek, file.read

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left")


class Short(Full):
    """A file on a disk that has room for a few bytes more."""

    def write(self, data: bytes) -> int:
        return self._file.write(data[:9])


@pytest.mark.processes
def test_a_process_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    def work() -> None:
        assert Spill(tmp_path, 10**6, CPU).write(0, row(0))
        os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


SHAPES = st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=3)


@given(SHAPES, st.sampled_from(DTYPES), st.integers(0, 9))
def test_files_give_back_what_was_written(shapes: list[list[int]], dtype: torch.dtype, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]
    read = from_bytes(to_bytes(tensors))
    assert [(t.shape, t.dtype) for t in read] == [(t.shape, t.dtype) for t in tensors]
    assert all(map(torch.equal, read, tensors))


@given(st.data())
def test_no_other_byte_is_taken(data: st.DataObject) -> None:
    whole = to_bytes(row(1))
    at = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(1, 255))
    changed = bytearray(whole)
    changed[at] ^= other
    for bad in (bytes(changed), whole[:at], whole + b"\0"):
        with pytest.raises(ValueError, match="checksum"):
            from_bytes(bad)
