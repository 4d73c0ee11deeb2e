"""What is free is what the system says, or less where a container has a limit of its own."""

from pathlib import Path

import psutil
import pytest

from fedtune.cohort.room import free_memory, gigabytes, total_memory
from fedtune.errors import RunError

MB = 2**20


def limits(folder: Path, most: str, used: int, files: int) -> Path:
    """A container's limits as Linux shows them."""
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {files}\nslab 7\n")
    return folder


def test_a_container_has_what_its_limit_leaves_files_that_were_read_not_counted(tmp_path: Path) -> None:
    assert free_memory(limits(tmp_path, str(64 * MB), 60 * MB, 10 * MB)) == 14 * MB
    assert free_memory(limits(tmp_path, str(64 * MB), 70 * MB, 0)) == 0


def test_without_a_limit_it_is_the_machines_free_memory(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    for groups in (tmp_path, limits(tmp_path, "max", 60 * MB, 0), limits(tmp_path, str(1000 * total), 0, 0)):
        assert 0 < free_memory(groups) <= total
    assert total_memory() == pytest.approx(total, rel=0.01)


def test_what_a_person_asks_for_is_bytes_and_ends_where_the_memory_does() -> None:
    assert gigabytes(0.5, 10**9) == 500_000_000
    with pytest.raises(RunError, match="--cache-gb must be between 0 and the 1 GB of memory here, not 2"):
        gigabytes(2.0, 10**9)
