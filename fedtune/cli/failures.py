"""What a person sees of an error: one red sentence on stderr, and the exit code that goes with it."""

import errno

import click

from fedtune.catalogue.disk import is_full
from fedtune.cli.termination import Terminated
from fedtune.errors import FedtuneError

FAILED, WRONG_USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143

_DISK_FULL = "the disk is full{at}: make room and run the command again; a run goes on with --resume"

_OF_THE_SYSTEM = {
    errno.EADDRINUSE: "the port is in use{at}: stop what listens there, or choose another port",
    errno.EMFILE: "too many files are open: raise the limit with `ulimit -n`",
    errno.ENOENT: "there is no file or folder{at}",
    errno.EACCES: "access is denied{at}: check the permissions",
    errno.EROFS: "the file system is read-only{at}: choose another folder",
}
"""Sentences for the errors of the system that a user can do something about."""


def report(error: Exception) -> int:
    """Say `error` on stderr and return the exit code."""
    if isinstance(error, click.Abort):
        _print("stopped")
        return TERMINATED if isinstance(error.__cause__, Terminated) else INTERRUPTED
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    _print(sentence_of(error))
    return FAILED


def sentence_of(error: Exception) -> str:
    """What to tell a person of any error; several mistakes in one error are one line each."""
    if isinstance(error, FedtuneError):
        lines = str(error).splitlines()
        return str(error) if len(lines) == 1 else "\n".join([f"{len(lines)} mistakes", *lines])
    if is_full(error):  # libraries have their own classes for it
        return _DISK_FULL.format(at=_at(error))
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, ImportError):
        return (
            f"a Python package is missing or damaged ({error}): install fedtune again, or the extra that the docs name"
        )
    if isinstance(error, MemoryError):
        return "the memory does not suffice: lower training.batch_size or model.max_length, or take a smaller model"
    first = (str(error).splitlines() or [""])[0]
    return (
        f"something unexpected went wrong ({type(error).__name__}: {first}); run the command with --debug to see "
        "where, and please report it"
    )


def _of_the_system(error: OSError) -> str:
    known = _OF_THE_SYSTEM.get(error.errno or 0)
    return known.format(at=_at(error)) if known else f"{error.strerror or error}{_at(error)}"


def _at(error: Exception) -> str:
    name = getattr(error, "filename", None)
    return f" ({name})" if name else ""


def _print(sentence: str) -> None:
    from rich.console import Console
    from rich.text import Text

    line = Text("Error: ", style="bold red").append(Text(sentence, style="not bold red"))
    Console(stderr=True).print(line, soft_wrap=True)
