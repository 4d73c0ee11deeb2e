"""Builds tiny real packages in a folder that pip takes for its only index."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from fedtune.catalogue import Entry

TEXT = "the content of the toy\n"


def toy_wheel(folder: Path) -> Path:
    """A valid wheel `toy_model-1.0` that holds `toy_model/toy.txt`."""
    path = folder / "toy_model-1.0-py3-none-any.whl"
    info = "toy_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("toy_model/toy.txt", TEXT)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def toy_sdist(folder: Path, marker: Path) -> Path:
    """An sdist `toydata-1.0` whose setup.py writes `marker`, and which holds `extra/toy.txt`."""
    path = folder / "toydata-1.0.tar.gz"
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: toydata\nVersion: 1.0\n",
        "setup.py": f"open({str(marker)!r}, 'w').write('ran')\nfrom setuptools import setup\nsetup(name='toydata')\n",
        "extra/toy.txt": TEXT,
    }
    with tarfile.open(path, "w:gz") as sdist:
        for name, text in files.items():
            member = tarfile.TarInfo(f"toydata-1.0/{name}")
            member.size = len(text)
            sdist.addfile(member, io.BytesIO(text.encode()))
    return path


def toy_entry(archive: Path, **changes: Any) -> Entry:
    """The entry that describes a toy archive."""
    wheel = archive.suffix == ".whl"
    fields: dict[str, Any] = {
        "name": "toy",
        "kind": "model" if wheel else "data",
        "title": "a toy",
        "licence": "CC0",
        "archive": "wheel" if wheel else "sdist",
        "package": "toy-model" if wheel else "toydata",
        "version": "1.0",
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "download_bytes": archive.stat().st_size,
        "converted_bytes": 100,
        "convert": "tests.catalogue.toy_converters:copy_text",
    }
    return Entry(**(fields | changes))
