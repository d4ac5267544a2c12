"""Memory that this process has freed, given back to the system.

glibc keeps it for later, in arenas of several threads: a process that does each piece of work in a
thread of its own grows, though it keeps nothing.
"""

import ctypes
import gc
from contextlib import suppress


def give_back() -> None:
    """Collect what only refers to itself, and give back what is free: this where there is glibc."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
