"""Growth of each stage with its rows: peak memory, and seconds a row, at 1x, 10x and 100x.

    python -m benchmarks.stages STAGE ...      at all three, and prints the rows

Every stage runs as its real command line in a process of its own, in a scratch project whose tables
were written by the row: responses of 200 to 600 tokens, 2 forks of 50 tokens each, 4 answers a
fork, a model of one layer. 1x is 1024 responses, one row group; problems grow with them. Memory is
VmHWM of the process and its children, which starts at what the imports take; seconds are the
stage's own, without its start. The names are memory_STAGE_10x (MiB) and time_STAGE_10x (s a row).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.measure import row, say
from benchmarks.written import ROOT, STAGES, project

RESPONSES = 1024  # at 1x
SCALES = (1, 10, 100)
LONG = ("rollout", "teach", "train", "evaluate")  # minutes at 100x: topic growth
POLL_SECONDS = 0.005
INPUTS = {  # of each stage: option, and table or folder below data/
    "prepare": {},
    "pretrain": {"prompts": "prepare/prompts.parquet"},
    "rollout": {"prompts": "prepare/prompts.parquet", "policy": "pretrain"},
    "forks": {"rollouts": "rollout/rollouts.parquet", "tokenizer": "TOKENIZER"},
    "teach": {
        "prompts": "prepare/prompts.parquet",
        "rollouts": "rollout/rollouts.parquet",
        "forks": "forks/forks.parquet",
        "tokenizer": "TOKENIZER",
        "teacher": "pretrain",
    },
    "score": {
        "forks": "forks/forks.parquet",
        "answers": "teach/answers.parquet",
        "rollouts": "rollout/rollouts.parquet",
    },
    "prior": {
        "rollouts": "rollout/rollouts.parquet",
        "forks": "forks/forks.parquet",
        "scores": "score/scores.parquet",
    },
    "calibrate": {
        "rollouts": "rollout/rollouts.parquet",
        "forks": "forks/forks.parquet",
        "answers": "teach/answers.parquet",
        "tokenizer": "TOKENIZER",
    },
    "train": {
        "policy": "pretrain",
        "rollouts": "rollout/rollouts.parquet",
        "targets": "prior/targets.parquet",
        "reference": "pretrain",
    },
    "evaluate": {"prompts": "asked/prompts.parquet", "policy": "pretrain"},
    "report": {},
}


class Measured(NamedTuple):
    mib: float  # VmHWM, children added
    seconds: float  # of the stage, without its start
    rows: int


def rows(scratch: Path) -> list[dict[str, Any]]:
    """The growth rows of all stages; those of LONG at 100x are a topic of their own."""
    return grown(scratch, {x: SCALES[:-1] if x in LONG else SCALES for x in STAGES})


def grown(scratch: Path, wanted: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """The growth rows of stages at the scales that each is given; their peer is the run at 1x."""
    found: list[dict[str, Any]] = []
    measured: dict[tuple[str, int], Measured] = {}
    for scale in SCALES:
        stages = [stage for stage, scales in wanted.items() if scale in scales]
        folder = scratch / f"{scale}x"
        if stages:
            project(folder, RESPONSES * scale)
        for stage in stages:
            measured[stage, scale] = run(folder, stage)
            sys.stderr.write(f"{stage} {scale}x: {measured[stage, scale]}\n")
    for (stage, scale), one in measured.items():
        if scale > 1:
            base = measured[stage, 1]
            told = ("lower", "1x")
            each = ([one.seconds / one.rows], [base.seconds / base.rows])
            found.append(row(f"memory_{stage}_{scale}x", "MiB", *told, [one.mib], [base.mib]))
            found.append(row(f"time_{stage}_{scale}x", "s per row", *told, *each))
    return found


def run(folder: Path, stage: str) -> Measured:
    """One execution of a stage on the tables in `folder`."""
    data, out = folder / "data", folder / "out" / stage
    command = ["omniopd", "stage", stage, "--cell", f"c{stage}", "--out", str(out)]
    for option, name in INPUTS[stage].items():
        path = "pretrain/checkpoint/tokenizer.json" if name == "TOKENIZER" else name
        command += [f"--{option}", str(data / path)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JUDGMENTS_URL": f"sqlite:///{folder / 'judgments.sqlite'}",
    }
    with (folder / f"{stage}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        peaks: dict[int, int] = {}
        while process.poll() is None:
            for pid in _family(process.pid):
                peaks[pid] = max(peaks.get(pid, 0), _peak_kib(pid))
            time.sleep(POLL_SECONDS)
    if process.returncode:
        raise RuntimeError(f"{stage}: {(folder / f'{stage}.log').read_text()[-2000:]}")
    found = json.loads((out / "run.json").read_text())
    rows = max(found["rows_in"], found["rows_out"])
    return Measured(sum(peaks.values()) / 1024, found["seconds"], rows)


def _family(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _peak_kib(pid: int) -> int:
    """VmHWM: the kernel's own peak, of which a look now and then misses nothing but the end."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stages", nargs="+", choices=STAGES)
    wanted = dict.fromkeys(parser.parse_args().stages, SCALES)
    with tempfile.TemporaryDirectory() as folder:
        say(grown(Path(folder), wanted))


if __name__ == "__main__":
    main()
