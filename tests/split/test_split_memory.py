"""What a part takes in memory while it is loaded, by the kernel's account."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.split.split_models import make, on_disk

MEASURE = """
import sys
from pathlib import Path
from tests.split.split_models import body_of, bytes_of, client_of, section
from tests.split.test_split_memory import resident
parts = {"client": lambda model: client_of(model).model, "body": body_of}
for load in parts.values():
    load(section("llama"))  # whatever is imported on the way is there before
for name, load in parts.items():
    start = resident(reset=True)
    part = load(section("llama", Path(sys.argv[1])))
    print(name, resident() - start, bytes_of(part))
"""


def resident(*, reset: bool = False) -> int:
    """The most memory that this process held since the last reset, bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel does not tell the peak")
def test_a_part_takes_at_its_peak_the_memory_of_its_own_numbers(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 4}
    large = make(tmp_path, "llama", vocab_size=30_000, **sizes)
    slack = 6_000_000  # what the allocator and the files' headers take beside the numbers
    command, root = [sys.executable, "-c", MEASURE, str(large)], Path(__file__).parents[2]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    measured = dict(zip(("client", "body"), told.stdout.splitlines()[-2:], strict=True))
    files = sum(tensor.numel() * 4 for tensor in on_disk(large).values())
    for name, line in measured.items():
        part, peak, own = line.split()
        assert part == name
        assert int(own) - slack <= int(peak) <= int(own) + slack
        assert int(own) + 5 * slack < files
