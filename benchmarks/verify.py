"""What `omniopd verify` costs: start-up, cache and workspace, of sizes as an experiment has them.

verify_large, verify_small   MB/s of the command, from its start to its end, on files of 8 MB and of
    20 kB; peer: `md5sum` on the same files
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, row, seconds

REPEATS = 5
SHAPES = {"large": (150, 8_000_000), "small": (15_000, 20_000)}  # files, bytes of each
DAG = "stages:\n  made:\n    cmd: 'true'\n    outs: [data/made]\n"


def rows(scratch: Path) -> list[Row]:
    return [_row(scratch / name, name, *shape) for name, shape in SHAPES.items()]


def _row(folder: Path, name: str, count: int, size: int) -> Row:
    _project(folder, count, size)
    environment = {**os.environ, "JUDGMENTS_URL": f"sqlite:///{folder / 'judgments.sqlite'}"}
    files = [path for part in (".dvc/cache", "data") for path in (folder / part).rglob("*")]
    names = [str(path.relative_to(folder)) for path in files if path.is_file()]
    assert len(names) >= 2 * count  # cache and workspace
    total = sum((folder / one).stat().st_size for one in names) / 1e6

    def run(command: list[str], stdin: bytes = b"") -> float:
        """MB/s."""
        kept = {"cwd": folder, "env": environment, "check": True, "stdout": subprocess.DEVNULL}
        return total / seconds(lambda: subprocess.run(command, input=stdin, **kept))

    ours = [sys.executable, "-m", "pipeline.commands.entry", "verify"]
    theirs = ["xargs", "-0", "md5sum"]
    listed = "\0".join(names).encode()
    run(ours), run(theirs, listed)
    pairs = [(run(ours), run(theirs, listed)) for _ in range(REPEATS)]
    return row(f"verify_{name}", "MB/s", "higher", "md5sum", *zip(*pairs, strict=True))


def _project(folder: Path, count: int, size: int) -> None:
    made = folder / "data" / "made"
    made.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for i in range(count):
        (made / f"{i:05d}.bin").write_bytes(draw.bytes(size))
    (folder / "dvc.yaml").write_text(DAG)
    for words in (("init", "-q", "--no-scm"), ("commit", "-q", "-f")):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=folder, check=True)
