"""The allocator's setting: taken on Linux, and it spares page faults."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_FAULTS = """
import resource, sys
from protos.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(200):
    blocks = [bytearray(1 << 20) + b"x" for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_kept_memory_is_not_faulted_in_again() -> None:
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", _FAULTS, how], cwd=ROOT, capture_output=True, check=True, text=True
            ).stdout
        )
        for how in ("keep", "give")
    ]
    assert faults[0] < faults[1] / 2, faults
