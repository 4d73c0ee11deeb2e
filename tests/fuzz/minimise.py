"""Makes the corpus of the decoders anew, of it and a folder: the smallest inputs that reach all that any reached.

python -m tests.fuzz.minimise FOLDER
"""

import hashlib
import sys
from pathlib import Path

from tests.fuzz.decoders import HEAD, asks_for, one_input

CORPUS = Path(__file__).parent / "corpus" / "decoders"
CODE = "/fedtune/compression/"


def main() -> None:
    folders = (CORPUS, Path(sys.argv[1]))
    candidates = {path.read_bytes() for folder in folders for path in folder.iterdir()}
    reached: set[tuple[object, ...]] = set()
    chosen = []
    for data in sorted((data for data in candidates if len(data) >= HEAD), key=lambda data: (len(data), data)):
        found = steps(data)
        if not found <= reached:
            reached |= found
            chosen.append(data)
    for path in CORPUS.iterdir():
        path.unlink()
    for data in chosen:
        (CORPUS / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(f"{len(chosen)} of {len(candidates)} inputs, {sum(map(len, chosen))} bytes, {len(reached)} steps")


def steps(data):
    """Each pair of lines of the decoders that follow one another, and the end, by what the input asks for."""
    asked = asks_for(data)
    found = set()

    def trace(frame, event, _):
        if CODE not in frame.f_code.co_filename:
            return None
        before = None

        def lines(frame, event, _):
            nonlocal before
            found.add((asked, frame.f_code, before, frame.f_lineno, event))
            before = frame.f_lineno
            return lines

        return lines

    sys.settrace(trace)
    try:
        ended = one_input(data)
    finally:
        sys.settrace(None)
    return found | {(asked, ended)}


if __name__ == "__main__":
    main()
