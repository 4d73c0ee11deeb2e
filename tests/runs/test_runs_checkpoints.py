"""Checkpoints: whole or absent, verified to the last byte, pruned without losing the best."""

import json
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_examples import make_state, memory_folder

from fedtune.errors import RunError
from fedtune.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fedtune.runs.checkpoints import CheckpointStore
from fedtune.state import digest

FACTORS = {"layer.0.A": torch.linspace(-1, 1, 12).reshape(3, 4), "layer.0.B": torch.eye(4)}


def make_checkpoint(round_: int, *, best: bool = False) -> Checkpoint:
    return Checkpoint(round_, make_state(round_), FACTORS, {"best_loss": 0.5, "stale": [1, 2]}, best)


def same(left: Checkpoint, right: Checkpoint) -> bool:
    plain = (left.round, left.extra, left.best) == (right.round, right.extra, right.best)
    return plain and digest(left.state) == digest(right.state) and digest(left.shared) == digest(right.shared)


def test_a_checkpoint_reads_back_bit_for_bit(tmp_path: Path) -> None:
    saved = make_checkpoint(3, best=True)
    save_checkpoint(saved, tmp_path / "c")
    assert same(load_checkpoint(tmp_path / "c"), saved)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "checkpoint.json",
        "shared.safetensors",
        "state.safetensors",
    ]


def test_saving_again_replaces_and_leaves_nothing_over(tmp_path: Path) -> None:
    save_checkpoint(make_checkpoint(3), tmp_path / "c")
    other = Checkpoint(3, make_state(8))
    save_checkpoint(other, tmp_path / "c")
    assert same(load_checkpoint(tmp_path / "c"), other)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_changed_or_missing_byte_anywhere_is_noticed(data: st.DataObject) -> None:
    """Whatever file is cut or has one byte changed: refused with RunError, or what is read is what was written."""
    with memory_folder() as folder:
        saved = make_checkpoint(3)
        save_checkpoint(saved, Path(folder) / "c")
        names = ["checkpoint.json", "shared.safetensors", "state.safetensors"]
        path = Path(folder) / "c" / data.draw(st.sampled_from(names))
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            path.write_bytes(content[:place])
        else:
            content[place] ^= data.draw(st.integers(1, 255))
            path.write_bytes(content)
        try:
            read = load_checkpoint(path.parent)
        except RunError:
            return
        assert same(read, saved)


def test_unchanged_factors_are_linked_and_changed_ones_written(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=3)
    store.save(make_checkpoint(1))
    store.save(make_checkpoint(2))
    store.save(Checkpoint(3, make_state(3), {"layer.0.A": torch.zeros(3, 4)}))
    inodes = [(store.path_of(r) / "shared.safetensors").stat().st_ino for r in (1, 2, 3)]
    assert inodes[0] == inodes[1] != inodes[2]
    assert digest(store.load("2").shared) == digest(FACTORS)
    assert store.load("3").shared["layer.0.A"].sum() == 0


def test_the_newest_and_the_best_stay_and_the_pointers_name_them(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    for round_ in range(7):
        store.save(make_checkpoint(round_, best=round_ in (0, 3)))
    assert store.rounds() == (3, 5, 6)
    assert (store.folder / "best").read_text() == "round-000003\n"
    assert (store.folder / "latest").read_text() == "round-000006\n"
    best = store.best()
    assert best is not None
    assert best.round == store.load("best").round == 3
    assert store.load("latest").round == 6


@settings(deadline=None, max_examples=60)
@given(bests=st.lists(st.booleans(), min_size=1, max_size=8), keep=st.integers(1, 3), back=st.integers(0, 8))
def test_pruning_never_deletes_best_or_latest(bests: list[bool], keep: int, back: int) -> None:
    with memory_folder() as folder:
        store = CheckpointStore(Path(folder) / "checkpoints", keep=keep)
        for round_, best in enumerate(bests):
            store.save(Checkpoint(round_, {"x": torch.ones(1)}, best=best))
        newest = set(range(len(bests))[-keep:])
        best_rounds = [r for r, best in enumerate(bests) if best]
        assert set(store.rounds()) == newest | set(best_rounds[-1:])
        before = set(store.rounds())
        store.truncate_after(back)
        assert set(store.rounds()) == {r for r in before if r <= back}


def test_a_damaged_newest_gives_the_one_before_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(make_checkpoint(1))
    store.save(make_checkpoint(2))
    state = store.path_of(2) / "state.safetensors"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        latest = store.latest()
    assert latest is not None
    assert latest.round == 1
    assert "round-000002 is damaged (state.safetensors)" in caplog.text


def test_all_damaged_is_an_error_and_none_is_none(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.latest() is None
    store.save(make_checkpoint(1))
    (store.path_of(1) / "checkpoint.json").write_bytes(b"{}")
    with pytest.raises(RunError, match=r"every checkpoint .* is damaged"):
        store.latest()


@pytest.mark.parametrize("which", ["7", "newest", "-1", "1.0", ""])
def test_an_unknown_checkpoint_is_answered_with_those_there_are(tmp_path: Path, which: str) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(make_checkpoint(1))
    store.save(make_checkpoint(2))
    with pytest.raises(RunError, match="choose best, latest or a round: 1, 2"):
        store.load(which)


def test_no_best_and_no_checkpoint_say_what_to_do(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.best() is None
    with pytest.raises(RunError, match=r"no best checkpoint; .* --checkpoint latest"):
        store.load("best")
    with pytest.raises(RunError, match="no latest checkpoint; let the run finish its first round"):
        store.load("latest")


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    from fedtune.runs.checkpoint import FORMAT, _checksum

    save_checkpoint(make_checkpoint(1), tmp_path / "c")
    header = json.loads((tmp_path / "c" / "checkpoint.json").read_text()) | {"format": FORMAT + 1}
    header.pop("checksum")
    header["checksum"] = _checksum(header)
    (tmp_path / "c" / "checkpoint.json").write_text(json.dumps(header))
    with pytest.raises(RunError, match="newer version"):
        load_checkpoint(tmp_path / "c")


def test_more_states_ride_along_and_empty_ones_do_not(tmp_path: Path) -> None:
    parts = {"memory": {"momentum/x": torch.arange(3.0)}, "shift": {}}
    save_checkpoint(Checkpoint(1, make_state(1), parts=parts), tmp_path / "c")
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded.parts.keys() == {"memory"}
    assert torch.equal(loaded.parts["memory"]["momentum/x"], torch.arange(3.0))
    (tmp_path / "c" / "memory.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match=r"memory\.safetensors"):
        load_checkpoint(tmp_path / "c")
