"""What a person reads when a command fails: sentences, and the exit code that goes with them."""

import errno
import os
from collections.abc import Callable

from fedtune.errors import FedtuneError

DEBUG = "FEDTUNE_DEBUG"
"""The environment variable that asks for tracebacks, as `--debug` does."""

FAILED, INTERRUPTED = 1, 130

_DISK_FULL = (
    "the disk is full: free some space, or write elsewhere (run.folder, FEDTUNE_CACHE); "
    "a run that was stopped goes on with --resume"
)


def wants_traceback() -> bool:
    """Did the user ask for tracebacks?"""
    return os.environ.get(DEBUG, "") not in ("", "0")


def sentences(error: BaseException) -> tuple[str, ...]:
    """What to say of `error`: the lines of our own errors, one sentence for anything else."""
    for kind, say in _SAY.items():
        if isinstance(error, kind):
            return tuple(line for line in say(error).splitlines() if line.strip())
    return (_unexpected(error),)


def _unexpected(error: BaseException) -> str:
    if "No space left on device" in str(error):  # as the Rust of safetensors and tokenizers puts it
        return _DISK_FULL
    what = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}{': ' * bool(what)}{what}; `fedtune --debug …` shows where"


def _said(error: BaseException) -> str:
    return str(error)


def _os_error(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number in _OF_ERRNO:
        return _OF_ERRNO[number]
    name = getattr(error, "filename", None)
    reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
    return f"{os.fspath(name)}: {reason}" if isinstance(name, str | os.PathLike) else reason


def _missing_module(error: BaseException) -> str:
    name = getattr(error, "name", None) or str(error)
    return f"the Python package {name} is missing or damaged ({error}); install fedtune again"


def _no_memory(_: BaseException) -> str:
    return "the memory does not suffice; lower training.batch_size, model.max_length or adapter.rank"


_OF_ERRNO: dict[int | None, str] = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL.replace("the disk is full", "your disk quota is used up"),
    errno.EADDRINUSE: "the port is in use by another program; stop that program, or name another port with --port",
    errno.EMFILE: "too many files are open at once; raise the limit with `ulimit -n 4096`",
}

_SAY: dict[type[BaseException], Callable[[BaseException], str]] = {
    FedtuneError: _said,
    ImportError: _missing_module,
    MemoryError: _no_memory,
    OSError: _os_error,
}
"""The first class that fits speaks; whatever is not here is a defect of fedtune."""
