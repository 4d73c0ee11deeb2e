"""Looks for streams that make a lossless decoder do anything but decode or refuse, with Google's atheris.

    pip install '.[fuzz]'
    python -m tests.fuzz.fuzz_decoders 180 --found FOLDER

runs for 180 seconds from the committed corpus, keeps new inputs in FOLDER and stops at the first defect, which it
writes there as `crash-…`. Afterwards

    python -m tests.fuzz.minimise FOLDER

adds to the corpus what reaches lines that it did not.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

CORPUS = Path(__file__).parent / "corpus" / "decoders"
LONGEST = 400
"""Bytes of an input."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=int, nargs="?", default=60)
    parser.add_argument("--found", type=Path, help="where new inputs go (default: a new folder)")
    options = parser.parse_args()
    found = options.found or Path(tempfile.mkdtemp(prefix="fuzz-decoders-"))
    found.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["fedtune.compression"]):
        from tests.fuzz.decoders import one_input

    def run(data: bytes) -> None:
        one_input(data)

    print(f"new inputs go to {found}", flush=True)
    limits = [f"-max_total_time={options.seconds}", f"-max_len={LONGEST}", "-timeout=5", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={found}/", str(found), str(CORPUS)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
