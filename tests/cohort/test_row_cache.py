"""What is kept of rows: within its budget, on disk beyond it, and never another number than was put there."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.cohort.cache import RowCache
from fedtune.cohort.spill import DTYPES, Spill, from_bytes, to_bytes

CPU = torch.device("cpu")
ROW = 40


def row(number: int) -> tuple[torch.Tensor, ...]:
    """Forty bytes that tell the row."""
    return (torch.full((8,), float(number)), torch.tensor([[float(number), -1.0]]))


def test_the_least_recently_used_goes_first() -> None:
    cache = RowCache(3 * ROW)
    for number in range(3):
        cache.put(number, row(number))
    assert cache.get(0) is not None
    cache.put(3, row(3))
    assert [cache.get(number) is None for number in range(4)] == [False, True, False, False]
    assert (cache.bytes, len(cache)) == (3 * ROW, 3)
    assert (cache.counts.memory, cache.counts.disk, cache.counts.missing) == (4, 0, 1)
    cache.put(3, row(5))
    assert cache.bytes == 3 * ROW
    assert torch.equal(cache.get(3)[0], row(5)[0])


def test_what_has_no_room_is_not_kept() -> None:
    cache = RowCache(ROW - 1)
    cache.put(0, row(0))
    assert (cache.get(0), cache.bytes) == (None, 0)


def test_what_falls_out_is_read_from_disk(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 10**6, CPU)
    cache = RowCache(2 * ROW, spill)
    for number in range(6):
        cache.put(number, row(number))
    for number in range(6):
        kept = cache.get(number)
        assert kept is not None
        assert all(map(torch.equal, kept, row(number)))
    assert cache.counts.disk == 6
    assert cache.bytes == 2 * ROW
    cache.close()
    assert not spill.folder.exists()
    assert list(tmp_path.iterdir()) == []
    assert cache.get(1) is None


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    cache = RowCache(0, Spill(tmp_path, 10**6, CPU))
    for number in range(3):
        cache.put(number, row(number))
    files = sorted(tmp_path.glob("*/*.rows"))
    damaged = bytearray(files[0].read_bytes())
    damaged[-1] ^= 1
    files[0].write_bytes(damaged)
    files[1].unlink()
    assert [cache.get(number) is None for number in range(3)] == [True, True, False]
    cache.put(0, row(0))
    assert cache.get(0) is not None


def test_the_disk_has_a_budget_too(tmp_path: Path) -> None:
    size = len(to_bytes(row(0)))
    cache = RowCache(0, Spill(tmp_path, 2 * size, CPU))
    for number in range(4):
        cache.put(number, row(number))
    assert len(list(tmp_path.glob("*/*.rows"))) == 2
    assert [cache.get(number) is None for number in range(4)] == [False, False, True, True]


def test_a_disk_that_fails_ends_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spill = Spill(tmp_path, 10**6, CPU)
    spill.folder.rmdir()
    cache = RowCache(0, spill)
    for number in range(3):
        cache.put(number, row(number))
    assert [record.message.startswith("nothing more is kept on disk") for record in caplog.records] == [True]


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
