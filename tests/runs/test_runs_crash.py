"""A run folder after real kills: whatever moment a process dies at, the folder opens and the run goes on."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from runs_examples import make_recipe, make_record, make_state, memory_folder

from fedtune.errors import RunError
from fedtune.runs.checkpoint import Checkpoint
from fedtune.runs.folder import RunFolder
from fedtune.state import digest

pytestmark = pytest.mark.processes

ROUNDS = 4
FACTORS = make_state(99)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: what a kill leaves does not depend on the disk."""
    with memory_folder() as folder:
        yield Path(folder)


def run_to_the_end(root: Path, rounds: int = ROUNDS) -> None:
    """A whole run or what is missing of one: its best round is the second."""
    with RunFolder.create(make_recipe(root), resume=True) as folder:
        checkpoint = folder.rewind()
        for round_ in range(checkpoint.round + 1 if checkpoint else 0, rounds):
            state = Checkpoint(round_, make_state(round_), FACTORS, {"round": round_}, best=round_ < 2)
            folder.finish_round(make_record(round_, best=round_ < 2), state)
        folder.end("finished")


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its exit code, 9 where it killed itself."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    return process.exitcode if process.exitcode is not None else -1


def die_at_change(number: int, work: Callable[[], None]) -> None:
    """Do `work` and die without a goodbye just before the `number`-th change of the file system."""
    seen = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        changes = event in {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
        if changes or (event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            seen += 1
            if seen == number:
                os._exit(9)

    sys.addaudithook(count)
    work()
    os._exit(0)


def check_sound(root: Path, rounds: int = ROUNDS) -> None:
    """Everything that a killed run may promise: nothing is torn, no round is there twice, state and rounds agree."""
    try:
        folder = RunFolder.open(root / "movie-reviews")
    except RunError as error:
        assert "is no run folder" in str(error)  # noqa: PT017 - died before the run was there
        return
    numbers = [r.round for r in folder.rounds()]
    assert numbers == list(range(len(numbers)))
    latest = folder.checkpoints.latest()
    saved = -1 if latest is None else latest.round
    assert saved in {len(numbers) - 1, len(numbers) - 2}
    if latest is not None:
        assert digest(latest.state) == digest(make_state(saved))
        assert digest(latest.shared) == digest(FACTORS)
        assert folder.checkpoints.load("best").round == min(saved, 1)
    assert len(numbers) <= rounds


def check_same_as_uninterrupted(root: Path, reference: Path) -> None:
    """The resumed run's rounds and checkpoints have the very bytes of one that was never killed."""
    for name in ("rounds.jsonl", "recipe.json", "checkpoints"):
        assert contents(root / "movie-reviews" / name) == contents(reference / "movie-reviews" / name), name


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p.relative_to(path.parent)): p.read_bytes() for p in files}


def test_killed_before_any_change_of_the_file_system_and_resumed(memory: Path) -> None:
    """Every gap between two changes, one after the other: about a hundred deaths, all resumed to the same bytes."""
    # Recipes name their folder, so every run is made in the same place and then moved away.
    here, reference = memory / "here", memory / "reference"
    run_to_the_end(here)
    here.rename(reference)
    deaths = 0
    while in_child(partial(die_at_change, deaths + 1, partial(run_to_the_end, here))) == 9:
        deaths += 1
        check_sound(here)
        run_to_the_end(here)
        check_same_as_uninterrupted(here, reference)
        here.rename(memory / f"run-{deaths}")
    check_same_as_uninterrupted(here, reference)
    assert deaths > 50


def test_killed_at_random_moments_again_and_again(memory: Path) -> None:
    """One run of many rounds, killed by SIGKILL a dozen times, ends as if nothing had been."""
    rounds, dice = 300, random.Random(4)
    root = memory / "here"
    for _ in range(12):
        process = multiprocessing.get_context("fork").Process(target=run_to_the_end, args=(root, rounds))
        process.start()
        time.sleep(dice.uniform(0.03, 0.15))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        check_sound(root, rounds)
    run_to_the_end(root, rounds)
    folder = RunFolder.open(root / "movie-reviews")
    assert [r.round for r in folder.rounds()] == list(range(rounds))
    assert folder.status == "finished"
    assert folder.info.resumptions
