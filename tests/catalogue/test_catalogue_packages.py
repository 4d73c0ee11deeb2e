"""Every entry of the catalogue, from its real package: what its pin and its converter promise is on the disk."""

import pytest

from fedtune.catalogue import fetch, find, names

PROMISED = {"model": {"config.json", "model.safetensors"}, "data": {"rows.parquet", "about.json"}}


@pytest.mark.models
@pytest.mark.parametrize("name", names())
def test_a_real_package_becomes_what_its_entry_promises(name: str) -> None:
    entry = find(name)
    folder = fetch(name)
    files = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert PROMISED[entry.kind] <= set(files)
    assert sum(files.values()) == pytest.approx(entry.converted_bytes, rel=0.1)
