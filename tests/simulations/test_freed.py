"""What passes free stays with the process: its pages are not mapped anew for each pass."""

import subprocess
import sys

SCRIPT = """
import resource
import torch
from simulations.freed import keep_freed

def faults_of_passes():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.ones(1_000_000) for _ in range(10)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_passes()
usual = faults_of_passes()
told = keep_freed()
faults_of_passes()
print(int(told), usual, faults_of_passes())
"""


def test_later_passes_find_their_memory_where_the_first_left_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    told, usual, kept = map(int, done.stdout.split())
    assert not told or kept <= usual // 10
