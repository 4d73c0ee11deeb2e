"""A build backend that builds nothing, so that pip downloads a source archive without running any code inside it.

pip wants a source archive's metadata before it keeps the file, and asks the backend (PEP 517), which for most is
setuptools and runs `setup.py`. This stands in under that name and answers from the `PKG-INFO` in the archive.
"""

from pathlib import Path

BACKEND = """
import sys
from email.parser import HeaderParser
from pathlib import Path


def get_requires_for_build_wheel(config_settings=None):
    return []


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    fields = HeaderParser().parsestr(Path("PKG-INFO").read_text(encoding="utf-8"))
    info = Path(metadata_directory) / f"{fields['Name']}-{fields['Version']}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {fields['Name']}", f"Version: {fields['Version']}", ""]
    (info / "METADATA").write_text("\\n".join(lines), encoding="utf-8")
    return info.name


__legacy__ = sys.modules[__name__]
"""


def folder(scratch: Path) -> Path:
    """Write the backend into `scratch` and return the folder to put on PYTHONPATH."""
    package = scratch / "no_build" / "setuptools"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "build_meta.py").write_text(BACKEND)
    return package.parent
