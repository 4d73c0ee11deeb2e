"""Where rows are kept changes no byte of a run; what cannot be is one sentence."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fedtune.cohort.cache import Counts, RowCache
from fedtune.cohort.spill import Spill
from fedtune.errors import RunError
from fedtune.recipe.dump import dump
from fedtune.runs.folder import RunFolder
from simulations.cli import simulate as command
from simulations.keeping import room_of
from simulations.sharing import sharing
from tests.worlds import tiny_recipe, write_rows

CPU = torch.device("cpu")
PRUNED = "last layer on the class token alone"


def test_the_room_is_shared_by_the_processes_and_said(tmp_path: Path) -> None:
    room = room_of(0.5, tmp_path, processes=4, device=CPU)
    assert room.memory(CPU) == 125_000_000
    assert isinstance(room.spill(CPU), Spill)
    assert room.words() == f"in up to 0.5 GB of memory and on the disk of {tmp_path}"
    usual = room_of(None, None, processes=4, device=CPU)
    assert (usual.given, usual.words(), usual.spill(CPU)) == (False, "", None)
    assert usual.memory(CPU) > 0
    assert room_of(0.0, None, processes=1, device=CPU).none
    assert room_of(0.0, tmp_path, processes=1, device=CPU).words() == f"on the disk of {tmp_path}"


@pytest.mark.parametrize("gb", [-1.0, float("nan"), float("inf"), 1e6])
def test_memory_that_is_not_there_is_a_sentence(gb: float) -> None:
    with pytest.raises(RunError, match="--cache-gb must be between 0 and the "):
        room_of(gb, None, processes=1, device=CPU)


def test_a_folder_that_no_file_can_be_made_in_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for folder, reason in ((tmp_path / "none", "No such file or directory"), (file, "Not a directory")):
        with pytest.raises(RunError, match=f"--cache-folder .* cannot be written to \\({reason}\\); name a folder"):
            room_of(None, folder, processes=1, device=CPU)


@pytest.mark.parametrize("clients", [12, 3])
def test_a_run_ends_with_the_same_bytes_whatever_is_kept(
    clients: int, tiny_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve clients share passes by threes, three are each alone."""
    monkeypatch.setattr("simulations.groups.cores", lambda: 4)
    monkeypatch.setattr("server.run.draw_plots", lambda _: None)
    counts: list[Counts] = []
    real = RowCache.__init__

    def watched(self: RowCache, room_bytes: int, spill: Spill | None = None) -> None:
        real(self, room_bytes, spill)
        counts.append(self.counts)

    monkeypatch.setattr(RowCache, "__init__", watched)
    disk = tmp_path / "scratch"
    disk.mkdir()
    recipe = tiny_recipe(
        tiny_bert_folder,
        write_rows(tmp_path / "rows.jsonl", 120),
        tmp_path,
        data={"partition": {"clients": clients}},
        adapter={"targets": ["bert.encoder.layer.1.attention.self.query"]},
        federation={"rounds": 2},
    )
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dropout": 0.0})})
    file = tmp_path / "recipe.toml"
    kept = "layer 0 kept with the next one's projections"
    for gb, folder, said in (
        (None, None, kept),
        (2.5, disk, f"{kept} in up to 2.5 GB of memory and on the disk of {disk}"),
        (0.0, None, "layer 0 computed anew each time"),
    ):
        assert f"; {said}; " in sharing(recipe, 12, room_of(gb, folder, processes=2, device=CPU))
    assert sharing(recipe, 2).endswith(f"too few to share passes; rows end to end without padding; {kept}; {PRUNED}")
    dropping = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dropout": 0.1})})
    assert "; nothing kept of rows, because the model drops numbers at random, others each time; " in sharing(
        dropping, 2, room_of(0.0, None, processes=2, device=CPU)
    )

    def ends(name: str, *options: str) -> tuple[list[str], Counts]:
        file.write_text(dump(recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": name})})))
        counts.clear()  # those of this process: what forks find is not seen here
        done = CliRunner().invoke(command, [str(file), *options], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        found = Counts(*(sum(getattr(c, key) for c in counts) for key in ("memory", "disk", "missing")))
        return [record.state_digest for record in RunFolder.open(tmp_path / name).rounds()], found

    usual, found = ends("usual", "--workers=1")
    assert found.memory > found.missing > found.disk == 0
    monkeypatch.setattr("fedtune.cohort.cache.PASSING_BYTES", 0)
    for name, options, expected in (
        ("none", ("--workers=2", "--cache-gb=0"), (False, False)),
        ("spilled", ("--workers=1", "--cache-gb=0.00001", f"--cache-folder={disk}"), (True, True)),
    ):
        digests, found = ends(name, *options)
        assert digests == usual, name
        assert (found.memory > 0, found.disk > 0) == expected, name
    assert list(disk.iterdir()) == []
