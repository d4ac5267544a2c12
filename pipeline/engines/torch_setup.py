"""Start torch the same way in every process: threads and allocator."""

import ctypes
import sys

from pipeline.config.params import Runtime
from pipeline.processes.lean_import import import_transformers

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEEP = 1 << 30  # bytes


def start(runtime: Runtime) -> None:
    """Call before anything imports transformers.

    Threads come from params, never from the environment: the order of a sum depends on them.
    """
    import_transformers()
    if sys.platform == "linux":
        # glibc gives large blocks back to the system at every free and faults them in again at
        # the next step; a decode loop spends a third of its time there
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEEP)
        libc.mallopt(M_TRIM_THRESHOLD, KEEP)
    import torch

    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
