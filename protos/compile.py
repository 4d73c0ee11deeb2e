"""Compiles the .proto files: `python -m protos.compile` writes the code beside them, `--check` only compares.

The generated code is committed, so that an installation needs no compiler; the check in CI proves that it is fresh.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "protos").rglob("*.proto"))


def compile_into(folder: Path) -> list[Path]:
    """Generate messages, stubs and service of every .proto below `folder`; returns the files, relative to it.

    The include path is the repository's root, so that generated imports read `protos.fedtune.v1`.
    """
    from grpc_tools import protoc

    outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{ROOT}", *outputs, *map(str, SOURCES)]):
        raise SystemExit("protoc failed; its message above names the line")
    return sorted(path.relative_to(folder) for path in folder.rglob("*_pb2*") if path.suffix in {".py", ".pyi"})


def stale_files(fresh: Path, generated: list[Path]) -> list[Path]:
    """The generated files that are missing or differ in the repository."""
    return [path for path in generated if _content(ROOT / path) != _content(fresh / path)]


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def main(arguments: list[str]) -> int:
    """Write the generated code, or with `--check` return 1 where what is committed differs."""
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        stale = stale_files(fresh, compile_into(fresh))
        for path in stale:
            if "--check" not in arguments:
                (ROOT / path).write_bytes((fresh / path).read_bytes())
            print(("stale: " if "--check" in arguments else "wrote ") + str(path))
    return int("--check" in arguments and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
