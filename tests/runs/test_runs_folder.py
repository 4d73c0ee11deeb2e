"""The run folder: never overwritten, one writer, honest about what it holds."""

import json
import multiprocessing
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_examples import make_recipe, make_record, make_state, memory_folder, write_run

from fedtune.errors import RunError
from fedtune.recipe.load import load_recipe
from fedtune.runs.checkpoint import Checkpoint
from fedtune.runs.environment import changed_values
from fedtune.runs.folder import RunFolder


def test_a_new_run_writes_down_what_it_is(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, seed=7)
    with RunFolder.create(recipe) as folder:
        folder.describe(model_fingerprint="ab" * 16, trainable_parameters=12)
    read = RunFolder.open(tmp_path / "movie-reviews")
    assert read.recipe == recipe
    assert load_recipe(str(read.path / "recipe.toml")) == recipe
    assert read.info == folder.info
    assert re.fullmatch("[0-9a-f]{32}", read.info.id)
    assert read.info.facts == {"trainable parameters": 12}
    assert read.info.model_fingerprint == "ab" * 16
    environment = read.environment()
    assert environment["seeds"] == {"run": 7, "adapter": 0}
    assert environment["packages"]["torch"].startswith("2.")
    assert environment["started_at"] == read.info.started_at


def test_two_runs_never_share_an_id(tmp_path: Path) -> None:
    identities = set()
    for name in "abc":
        with RunFolder.create(make_recipe(tmp_path, name=name)) as folder:
            identities.add(folder.info.id)
    assert len(identities) == 3


@pytest.mark.parametrize(
    ("status", "words"), [("finished", "a finished run"), ("failed", "a run that was not finished")]
)
def test_a_run_that_is_there_is_not_overwritten(tmp_path: Path, status: str, words: str) -> None:
    path = write_run(tmp_path, [make_record(0)], status=status)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"}
    with pytest.raises(RunError, match=rf"{words}; go on with it by --resume, or choose another run.name"):
        RunFolder.create(make_recipe(tmp_path))
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "movie-reviews").mkdir()
    (tmp_path / "movie-reviews" / "thesis.tex").write_text("mine")
    for resume in (False, True):
        with pytest.raises(RunError, match=r"holds thesis\.tex"):
            RunFolder.create(make_recipe(tmp_path), resume=resume)
    with pytest.raises(RunError, match="is no run folder"):
        RunFolder.open(tmp_path / "movie-reviews")
    with pytest.raises(RunError, match="is no run folder"):
        RunFolder.open(tmp_path / "nowhere")


def test_a_path_through_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"choose another run\.folder"):
        RunFolder.create(make_recipe(tmp_path / "file"))


def test_resuming_nothing_starts_a_run(tmp_path: Path) -> None:
    with RunFolder.create(make_recipe(tmp_path), resume=True) as folder:
        assert folder.rewind() is None
        assert not folder.resumed
        assert folder.info.resumptions == ()


def test_resuming_keeps_the_id_and_drops_rounds_without_a_checkpoint(tmp_path: Path) -> None:
    with RunFolder.create(make_recipe(tmp_path)) as first:
        for round_ in range(3):
            first.finish_round(make_record(round_), Checkpoint(round_, make_state(round_), best=round_ == 1))
        first.journal.append(make_record(3))
    with RunFolder.create(make_recipe(tmp_path), resume=True) as second:
        checkpoint = second.rewind()
        assert checkpoint is not None
        assert checkpoint.round == 2
        assert [r.round for r in second.rounds()] == [0, 1, 2]
        assert second.info.id == first.info.id
        assert [r.after_round for r in second.info.resumptions] == [2]


def test_a_damaged_newest_checkpoint_takes_the_run_back_one_round(tmp_path: Path) -> None:
    path = write_run(tmp_path, [make_record(r) for r in range(4)])
    (path / "checkpoints" / "round-000003" / "state.safetensors").write_bytes(b"")
    with RunFolder.create(make_recipe(tmp_path), resume=True) as folder:
        checkpoint = folder.rewind()
        assert checkpoint is not None
        assert checkpoint.round == 2
        assert folder.journal.last_round() == 2
        assert folder.checkpoints.rounds() == (2,)


def test_another_recipe_cannot_resume_but_a_longer_run_can(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    write_run(tmp_path, [make_record(0)])
    other = recipe.model_copy(update={"training": recipe.training.model_copy(update={"lr": 0.5})})
    with pytest.raises(RunError, match=r"another recipe \(training\.lr: 0\.001 → 0\.5\)"):
        RunFolder.create(other, resume=True)
    with pytest.raises(RunError, match=r"run\.seed: 0 → 1"):
        RunFolder.create(make_recipe(tmp_path, seed=1), resume=True)
    longer = recipe.model_copy(update={"federation": recipe.federation.model_copy(update={"rounds": 50})})
    RunFolder.create(longer, resume=True).close()
    assert RunFolder.open(tmp_path / "movie-reviews").recipe.federation.rounds == 50


def _hold(recipe_folder: Path, ready: object) -> None:
    with RunFolder.create(make_recipe(recipe_folder)):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)


@pytest.mark.processes
def test_two_processes_do_not_write_one_folder_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(RunError, match=rf"written by another process \(pid {holder.pid}\)"):
        RunFolder.create(make_recipe(tmp_path), resume=True)
    assert RunFolder.open(tmp_path / "movie-reviews").status == "running"
    holder.kill()
    holder.join()
    assert RunFolder.open(tmp_path / "movie-reviews").status == "interrupted"
    RunFolder.create(make_recipe(tmp_path), resume=True).close()


def test_how_it_ended_is_kept(tmp_path: Path) -> None:
    with RunFolder.create(make_recipe(tmp_path)) as folder:
        folder.end("failed", "5 rounds in a row had too few replies")
    read = RunFolder.open(folder.path)
    assert (read.status, read.info.reason) == ("failed", "5 rounds in a row had too few replies")
    assert read.info.ended_at


@settings(deadline=None, max_examples=40)
@given(name=st.sampled_from(["run.json", "recipe.json"]), share=st.floats(0, 1, exclude_max=True))
def test_small_files_cut_at_any_byte_open_or_say_which_one(name: str, share: float) -> None:
    with memory_folder() as root:
        path = write_run(Path(root), [])
        content = (path / name).read_bytes().rstrip()
        (path / name).write_bytes(content[: int(share * len(content))])
        with pytest.raises(RunError, match=re.escape(name)):
            RunFolder.open(path)


def test_a_damaged_environment_does_not_hide_the_results(tmp_path: Path) -> None:
    path = write_run(tmp_path, [make_record(0)])
    (path / "environment.json").write_bytes(b"{")
    folder = RunFolder.open(path)
    assert folder.environment() == {}
    assert folder.rounds() == (make_record(0),)


def test_a_run_of_a_newer_version_is_not_misread(tmp_path: Path) -> None:
    path = write_run(tmp_path, [])
    info = json.loads((path / "run.json").read_text()) | {"format": 2}
    (path / "run.json").write_text(json.dumps(info))
    with pytest.raises(RunError, match="another version of fedtune"):
        RunFolder.open(path)


def test_changed_environments_are_told_by_dotted_name() -> None:
    before = {"python": "3.11.7", "packages": {"torch": "2.6", "peft": "0.20"}}
    after = {"python": "3.11.7", "packages": {"torch": "2.13", "peft": "0.20", "numpy": "2"}}
    assert changed_values(before, after) == {"packages.torch": "2.6 → 2.13", "packages.numpy": "– → 2"}
