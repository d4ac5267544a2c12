"""What Postgres itself works for answers that are added: how many a core of its machine takes.

Beside benchmarks.judgments_scale, which has the client's side.
"""

import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.judgments import REPLY, replies
from pipeline.judgments.store import Entry, Store
from tests import databases

SIZES = (4_000, 8_000, 16_000, 32_000)  # answers, in replies of 8 with their line of the ledger


def measured(scratch: Path, size: int) -> dict[str, float]:
    """CPU seconds of the server's processes, and of this one, which is the client."""
    batches = list(replies(0, size))
    paid = Entry(bought=REPLY, requests=1, tokens=1400, usd=1e-4)
    with databases.postgres() as server, Store(databases.url_of(server, "scale"), "bench") as store:
        store.add(next(replies(size, size + REPLY)), paid)  # connected
        before, cpu, start = _served(server), time.process_time(), time.perf_counter()
        for batch in batches:
            store.add(batch, paid)
        return {
            "size": size,
            "wall": time.perf_counter() - start,
            "client_cpu": time.process_time() - cpu,
            "server_cpu": _served(server) - before,
        }


def _served(server: Any) -> float:
    pid = int((Path(server.pgdata) / "postmaster.pid").read_text().split()[0])
    total = 0.0
    for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        user, system, *_ = one.cpu_times()
        total += user + system
    return total
