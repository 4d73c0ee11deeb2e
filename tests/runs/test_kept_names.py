"""Whatever a coordinator calls its run, what a client keeps stays in its own folder."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtune.runs.kept import Keep

HOSTILE = ["..", ".", "", "../..", "a/../..", "/etc", "%2E%2E", "..%2F", "\x00", "con"]


@pytest.mark.parametrize("run", HOSTILE)
@pytest.mark.parametrize("client", ["..", "hospital-a"])
def test_no_name_leads_out_of_the_folder(run: str, client: str, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    keep = Keep(folder)
    keep.write(run, client, 1, {"own/a": torch.ones(2)}, {})
    assert torch.equal(keep.read(run, client, before=2)["own/a"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert keep.path_of(run, client).resolve().parent.parent == folder.resolve()


@given(st.lists(st.text(max_size=8), min_size=2, max_size=2, unique=True))
def test_different_names_have_different_folders(names: list[str]) -> None:
    keep = Keep(Path("kept"))
    one, two = (keep.path_of(name, "client") for name in names)
    assert one != two
