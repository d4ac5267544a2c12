"""All benchmarks, or the named ones; each topic in a process of its own.

    python -m benchmarks [TOPIC ...]      topics: loss train_step exact rollout engine teach start
                                          score text dag status verify stages and, only where it is
                                          named, growth (half an hour), overlap (8 minutes), repro
                                          (14), gpu (8, on a GPU), and workers (10) and thousands
                                          with extra ray

Writes benchmarks/results.json, where rows of topics that were not asked for stay, and the table
benchmarks/results.md. Look-ups in the judgment store are a command of their own,
benchmarks.judgments, with a file of its own: they take as long as all of these.
"""

import argparse
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Row, say
from benchmarks.stages import LONG

HERE = Path(__file__).parent
RESULTS, TABLE = HERE / "results.json", HERE / "results.md"
_APART = f"(memory|time)_({'|'.join(LONG)})_100x"
TOPICS = {  # and how the names of their rows begin
    "loss": "loss_",
    "train_step": "(train_)?step_",
    "exact": "exact_",
    "rollout": "rollout_",
    "engine": "engine_",
    "teach": "teach_",
    "start": "stage_start",
    "overlap": "overlap_",
    "score": "score",
    "text": "text_",
    "dag": "dag_",
    "status": "status_",
    "verify": "verify_",
    "stages": f"(?!{_APART})(memory|time)_",
    "repro": "repro_",
    "growth": _APART,
    "gpu": "gpu_",
    "workers": "workers_",
    "thousands": "thousands_",
}
LONGEST = ("growth", "overlap", "repro", "gpu", "workers", "thousands")  # where they are named
ALL = [topic for topic in TOPICS if topic not in LONGEST]
MANDATORY = (
    "rollout_vllm",
    "teach_generate",
    "loss_memory_naive",
    "loss_memory_trl",
    "loss_time_trl",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topics", nargs="*", choices=[*TOPICS, []], default=[])
    parser.add_argument("--into", nargs=2, type=Path, help="one topic here: scratch folder, file")
    args = parser.parse_args()
    if args.into:
        (topic,), (scratch, out) = args.topics, args.into
        scratch.mkdir(parents=True, exist_ok=True)
        found = importlib.import_module(f"benchmarks.{topic}").rows(scratch)
        out.write_text(json.dumps(found))
        return
    failed = [topic for topic in args.topics or ALL if not _run(topic)]
    if failed:
        sys.exit(f"bench: failed: {' '.join(failed)}. What they measured before is kept.")


def _run(topic: str) -> bool:
    """Run a topic and put its rows in the place of their earlier ones; whether it ended well."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        scratch, out = Path(folder) / "scratch", Path(folder) / "rows.json"
        scratch.mkdir()
        command = [sys.executable, "-m", "benchmarks", topic, "--into", str(scratch), str(out)]
        done = subprocess.run(command, env=_environment(topic), check=False)
        if done.returncode:
            return False
        rows: list[Row] = json.loads(out.read_text())
    say(rows)
    sys.stderr.write(f"{topic}: {time.monotonic() - begin:.0f} s\n")
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    found = [one for one in kept if topic_of(one) != topic] + rows
    found.sort(key=lambda one: list(TOPICS).index(topic_of(one)))
    RESULTS.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    TABLE.write_text(table(found))
    return True


def topic_of(row: Row) -> str:
    return next(topic for topic, begins in TOPICS.items() if re.match(begins, row["name"]))


def _environment(topic: str) -> dict[str, str]:
    """vLLM from the tests' own environment: their versions are the same."""
    if topic not in ("rollout", "engine", "teach"):
        return dict(os.environ)
    paths = [str(HERE.parent)]
    if importlib.util.find_spec("vllm") is None:
        from tests.small_engines import vllm_packages

        paths.append(str(vllm_packages()))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def table(rows: list[Row]) -> str:
    """For README: a row a line, in Markdown."""
    lines = ["| what | ours | peer | ratio (spread) | better |", "|---|---|---|---|---|"]
    for row in rows:
        ratio = f"{row['ratio']:.2f} ({row['spread']:.2f}, {row['repeats']} runs)"
        theirs = f"{row['peer_value']:.4g} ({row['peer']})"
        value = f"{row['value']:.4g} {row['unit']}"
        lines.append(f"| {row['name']} | {value} | {theirs} | {ratio} | {row['better']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
