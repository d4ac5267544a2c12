"""What one cell's files cost on their way to a remote that holds so many objects, and from it."""

import contextlib
import hashlib
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scale import processes
from benchmarks.scale.s3_units import bucket
from pipeline.runner.workers import objects

SIZES = (50, 500, 1_000, 2_000)
OFFERS = 20  # cells, two files each


def measured(scratch: Path, size: int) -> dict[str, float]:
    folder, remote = scratch / "project", scratch / "remote"
    folder.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    processes.dvc(folder, "init", "-q")
    for i in range(size):
        place = _place(remote / "files/md5", hashlib.md5(str(i).encode()).hexdigest())
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(str(i))
    found = _offered(folder, "folder", str(remote))
    with bucket() as (url, endpoint):
        import boto3

        client = boto3.client("s3", endpoint_url=endpoint)
        for i in range(size):
            md5 = hashlib.md5(str(i).encode()).hexdigest()
            key = f"project/files/md5/{md5[:2]}/{md5[2:]}"
            client.put_object(Bucket="scale", Key=key, Body=str(i).encode())
        return {"size": size, **found, **_offered(folder, "s3", url, endpoint)}


def _place(root: Path, md5: str) -> Path:
    return root / md5[:2] / md5[2:]


def _offered(folder: Path, name: str, url: str, endpoint: str = "") -> dict[str, float]:
    processes.dvc(folder, "remote", "add", "-q", "-d", "-f", name, url)
    if endpoint:
        processes.dvc(folder, "remote", "modify", "-q", name, "endpointurl", endpoint)
    with contextlib.chdir(folder):
        from dvc.repo import Repo

        repo = Repo()
        cells = [
            [_entry(repo, f"{name}-{i}-{part}") for part in range(2)] for i in range(OFFERS + 1)
        ]
        offers = [_taken(objects.offer, repo, entries) for entries in cells]
        shutil.rmtree(objects.cache(repo))
        brings = [_taken(objects.bring, repo, entries) for entries in cells]
    # the first connects
    return {
        f"{name}_{what}_{kind}": statistics.median(one[place] for one in taken[1:])
        for what, taken in (("offer", offers), ("bring", brings))
        for place, kind in enumerate(("cpu", "wall"))
    }


def _taken(work: Callable[[Any, Any], None], repo: Any, entries: Any) -> tuple[float, float]:
    """CPU seconds and seconds by the clock."""
    cpu, start = time.process_time(), time.perf_counter()
    work(repo, entries)
    return time.process_time() - cpu, time.perf_counter() - start


def _entry(repo: Any, text: str) -> dict[str, Any]:
    md5 = hashlib.md5(text.encode()).hexdigest()
    place = _place(objects.cache(repo), md5)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    place.chmod(0o444)
    return {"path": text, "hash": "md5", "md5": md5, "size": len(text)}
