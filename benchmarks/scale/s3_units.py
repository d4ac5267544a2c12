"""What a remote on S3 costs by objects: the client alone, beside a server (moto) on loopback."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import finished
from benchmarks.scale import dag_units

SIZES = ((2, 1), (8, 1), (15, 1), (29, 1))  # arms, seeds


def measured(scratch: Path, size: tuple[int, int]) -> dict[str, float]:
    """`size` is the count of objects in the cache."""
    project = finished.now(scratch / "project", dag_units.study(*size), ran=True)
    objects = [one for one in (project.folder / ".dvc/cache/files").rglob("*") if one.is_file()]
    with bucket() as (url, endpoint):
        found = dag_units.remote(project.folder, "s3", url, endpoint)
    return {"size": len(objects), **found}


@contextlib.contextmanager
def bucket() -> Iterator[tuple[str, str]]:
    """An empty bucket of an S3 server (moto) on loopback: its URL and the server's."""
    import boto3

    known = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
    os.environ.update(known | {"AWS_DEFAULT_REGION": "us-east-1"})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.2)
        endpoint = f"http://127.0.0.1:{port}"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="scale")
        yield "s3://scale/project", endpoint
    finally:
        server.kill()
        server.wait()
