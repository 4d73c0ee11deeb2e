"""Jobs and replies come out of their bytes as they went in; bytes that are cut short are refused."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.cluster.packs import join, join_jobs, split, split_jobs

TASKS = st.sampled_from([b"a task", b"another", bytes(300)])


@given(st.lists(st.binary(max_size=40)))
def test_parts_come_out_as_they_went_in(parts: list[bytes]) -> None:
    assert split(join(parts)) == parts


@given(st.lists(st.tuples(st.sampled_from(["", "c0", "clïent"]), TASKS)))
def test_jobs_come_out_as_they_went_in_and_equal_neighbours_share_a_task(jobs: list[tuple[str, bytes]]) -> None:
    whole = join_jobs(jobs)
    found = split_jobs(whole)
    assert found == jobs
    for (_, before), (_, after) in pairwise(found):
        assert (before is after) == (before == after)
    changes = sum(len(task) for i, (_, task) in enumerate(jobs) if not i or task != jobs[i - 1][1])
    assert len(whole) == changes + sum(16 + len(name.encode()) for name, _ in jobs)


@given(st.lists(st.binary(max_size=40), min_size=1), st.data())
def test_bytes_that_end_amid_a_part_are_refused(parts: list[bytes], data: st.DataObject) -> None:
    whole, ends = join(parts), {0}
    for part in parts:
        ends.add(max(ends) + 8 + len(part))
    cut = data.draw(st.integers(0, len(whole) - 1).filter(lambda at: at not in ends))
    with pytest.raises(ValueError, match="the bytes end amid"):
        split(whole[:cut])
