"""Seconds of stages that a server of `pipeline.processes.fork_server` forks; by name, as it moved.

    python -P -m benchmarks.start_cost MODULE

Reads command lines from stdin, writes the seconds of each to stdout. The server is warm.
"""

import importlib
import os
import subprocess
import sys
import time

module = importlib.import_module(sys.argv[1])
with module.serving() as warm:
    for line in sys.stdin:
        begin = time.perf_counter()
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            env={**os.environ, **warm},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            check=False,
        )
        sys.stdout.write(f"{time.perf_counter() - begin if not done.returncode else -1}\n")
        sys.stdout.flush()
