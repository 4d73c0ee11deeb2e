"""Fetches an entry once: download, verify, unpack, convert, and only then show the finished folder."""

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

from filelock import FileLock

from fedtune.catalogue import cache, disk
from fedtune.catalogue.download import Progress, download, sha256_of
from fedtune.catalogue.entries import ENTRIES, ERROR_OF_KIND, find
from fedtune.catalogue.entry import Entry, Kind
from fedtune.catalogue.installed import installed_root
from fedtune.catalogue.unpack import UnsafeArchive, unpack
from fedtune.errors import FedtuneError


def no_progress(what: str, done: int, total: int) -> None:
    """Shows nothing."""


def locate(name: str, kind: Kind | None = None) -> Path:
    """The converted folder of a catalogue entry, read only.

    Raises ModelError or DataError where the name is unknown or nothing was fetched yet. Never touches the network.
    """
    entry = find(name, kind)
    folder = cache.converted_folder(entry)
    if not folder.is_dir():
        raise ERROR_OF_KIND[entry.kind](f"{entry.name} is not on this machine yet: run `fedtune fetch {entry.name}`.")
    return folder


def fetch(name: str, kind: Kind | None = None, *, progress: Progress = no_progress) -> Path:
    """The converted folder of a catalogue entry, downloaded and converted first where that was not done yet.

    Guarantees: a folder that is there is complete; the archive's SHA-256 is the pinned one; no code of the package
    runs; of two processes that fetch the same entry one works and the other waits. Raises ModelError or DataError.
    """
    return fetch_entry(find(name, kind), progress=progress)


def fetch_entry(entry: Entry, *, progress: Progress = no_progress) -> Path:
    """`fetch` for an entry at hand."""
    folder = cache.converted_folder(entry)
    if folder.is_dir():
        return folder
    work = cache.work_folder(entry)
    try:
        cache.lock_file(entry).parent.mkdir(parents=True, exist_ok=True)
        progress("waiting", 0, 0)
        with FileLock(cache.lock_file(entry)):
            if not folder.is_dir():
                _make(entry, folder, work, progress)
    except FedtuneError as error:
        raise (_full(entry) if disk.is_full(error) else error) from None
    except (UnsafeArchive, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ERROR_OF_KIND[entry.kind](f"The archive of {entry.name} cannot be unpacked: {error}.") from error
    except Exception as error:
        if disk.is_full(error):
            raise _full(entry) from error
        if isinstance(error, OSError):
            raise ERROR_OF_KIND[entry.kind](
                f"{entry.name} cannot be written to {cache.cache_folder()} ({error.strerror or error}); "
                f"make that folder writable or set FEDTUNE_CACHE to another."
            ) from error
        raise
    return folder


def _make(entry: Entry, folder: Path, work: Path, progress: Progress) -> None:
    _check_space(entry)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        unpacked = installed_root(entry) or _unpacked(entry, work, progress)
        progress("converting", 0, 0)
        out = work / "out"
        out.mkdir()
        entry.converter()(unpacked, out)
        _flush(out)
        folder.parent.mkdir(parents=True, exist_ok=True)
        out.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not _wanted_by_others(entry):
        shutil.rmtree(cache.archive_folder(entry), ignore_errors=True)


def _unpacked(entry: Entry, work: Path, progress: Progress) -> Path:
    archive = _kept_archive(entry) or download(entry, cache.archive_folder(entry), work, progress)
    progress("unpacking", 0, 0)
    unpacked = work / "unpacked"
    unpacked.mkdir()
    unpack(archive, unpacked)
    return unpacked


def _kept_archive(entry: Entry) -> Path | None:
    """The archive that an earlier fetch left, verified again; whatever else lies there is removed."""
    folder = cache.archive_folder(entry)
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_file() and sha256_of(path) == entry.sha256:
                return path
        shutil.rmtree(folder)
    return None


def _wanted_by_others(entry: Entry) -> bool:
    sharing = (other for other in ENTRIES if other.sha256 == entry.sha256)
    return any(not cache.converted_folder(other).is_dir() for other in sharing)


def _check_space(entry: Entry) -> None:
    if disk.free_bytes(cache.cache_folder()) < _space_needed(entry):
        raise _full(entry)


def _space_needed(entry: Entry) -> int:
    # The client's temporary copy, the archive and what it unpacks to are all there at once, beside the result.
    return 4 * entry.download_bytes + entry.converted_bytes


def _full(entry: Entry) -> FedtuneError:
    return ERROR_OF_KIND[entry.kind](
        f"The disk of {cache.cache_folder()} has no room for {entry.name}: free {_space_needed(entry) / 1e6:.0f} MB "
        f"there, or set FEDTUNE_CACHE to a folder on another disk."
    )


def _flush(folder: Path) -> None:
    """Bring the files to the disk before the rename, so that a power cut leaves no empty files behind a good name."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDWR)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
