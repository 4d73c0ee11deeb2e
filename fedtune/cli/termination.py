"""SIGTERM ends a command as the keyboard does: what it was at is closed and written down."""

import signal
import threading
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM, as service managers and container engines send it)."""


def end_on_sigterm() -> None:
    """From here on SIGTERM raises Terminated in the main thread; does nothing in any other thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _raise)


def _raise(_: int, __: FrameType | None) -> None:
    raise Terminated
