"""What every benchmark shares: processes of their own, peak memory, pairs run in turn, rows.

A row is {name, value, unit, peer, peer_value, ratio = ours / peer, finite, better: higher | lower,
repeats, spread}; spread is the largest minus the smallest ratio of the repeats.
"""

import ctypes
import gc
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def row(
    name: str, unit: str, better: str, peer: str, ours: Sequence[float], theirs: Sequence[float]
) -> Row:
    """A row from repeats that were measured in turn; medians."""
    ratios = np.array(ours) / np.array(theirs)
    value, peer_value = float(np.median(ours)), float(np.median(theirs))
    ratio, spread = float(np.median(ratios)), float(ratios.max() - ratios.min())
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "peer": peer,
        "peer_value": peer_value,
        "ratio": ratio,
        "finite": all(map(math.isfinite, (value, peer_value, ratio, spread))),
        "better": better,
        "repeats": len(ratios),
        "spread": spread,
    }


def in_turn(
    name: str,
    unit: str,
    peer: str,
    work: float,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    repeats: int = 5,
) -> Row:
    """`work` units done by each of two functions in this process, in turn after one warm-up."""
    ours(), theirs()
    rates = np.array([[work / seconds(f) for f in (ours, theirs)] for _ in range(repeats)])
    return row(name, unit, "higher", peer, rates[:, 0].tolist(), rates[:, 1].tolist())


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def alone(module: str, *words: str, code: Sequence[Path] = ()) -> dict[str, float]:
    """What `python -m MODULE WORDS` prints last, as JSON, from a process of its own.

    `code`: folders that it imports from, if not from this one.
    """
    # -P: the current folder's code would come before it
    command = [sys.executable, *(["-P"] if code else []), "-m", module, *words]
    paths = {"PYTHONPATH": os.pathsep.join(map(str, code))} if code else {}
    env = {**os.environ, **paths}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def peak(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds of `run`, and MiB by which this process' memory stood above its start at most."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what is free in the heap is used and not counted
    CLEAR.write_text("5")  # forget the highest so far
    before = _kib("VmRSS")
    taken = seconds(run)
    return {"seconds": taken, "mib": (_kib("VmHWM") - before) / 1024}


def _kib(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.M)
    assert found
    return int(found[1])


def say(rows: Sequence[Row]) -> None:
    for one in rows:
        sys.stderr.write(
            f"{one['name']}: {one['value']:.4g} {one['unit']}, {one['peer']} "
            f"{one['peer_value']:.4g}, ratio {one['ratio']:.3f} (spread {one['spread']:.3f})\n"
        )


def threads() -> int:
    return os.cpu_count() or 1
