"""Memory that a pass has freed stays with the process for the next one: the system would have to clear it anew."""

import ctypes

_TRIM, _MMAP = -1, -3
"""glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""
KEPT, LARGEST = 128 << 20, 32 << 20
"""Bytes that are kept though nobody uses them, and of one piece of memory up to which it is among them."""


def keep_freed() -> bool:
    """Tell the C library to keep what is freed, where it can be told; what processes are forked later do the same.

    Otherwise glibc gives the room of a pass's activations back to the system after each pass, and each of the next
    pass's pages is cleared and mapped again: a tenth of the time of clients that train little.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_TRIM, KEPT)) and bool(mallopt(_MMAP, LARGEST))
