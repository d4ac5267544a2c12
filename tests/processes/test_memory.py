"""What a process has freed goes back to the system."""

import gc
import platform
from threading import Thread

import psutil
import pytest

from pipeline.processes import memory

BLOCKS, BYTES = 100_000, 600  # of malloc, not of Python's own pools


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_between_what_is_kept_goes_back() -> None:
    kept: list[bytes] = []

    def work() -> None:
        blocks = [bytes(BYTES) for _ in range(BLOCKS)]
        kept.append(blocks[-1])  # at the top, so that nothing below it is given back by itself

    thread = Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()
    before = psutil.Process().memory_info().rss
    memory.give_back()
    assert before - psutil.Process().memory_info().rss > BLOCKS * BYTES / 2
