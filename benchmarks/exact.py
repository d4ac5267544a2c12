"""CPU seconds of the exact pass on SmolLM2, beside the project at an old commit.

exact_pass    4 responses of up to 48 tokens to each of 12 prompts of about 90; peer: a5430f8
exact_pass_8  8 responses each
exact_pass_gap  the largest difference of a log-probability or entropy between the two, nats

Both run in processes of their own that have loaded the model, in turn after one warm-up; float32,
all cores. A difference of more than 1e-3 nats ends the benchmark.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import before, student
from benchmarks.measure import Row, row, threads

PROMPTS, SHORTEST, LONGEST, REPEATS = 12, 12, 48, 5
CASES = {"exact_pass": 4, "exact_pass_8": 8}
MODULES = {"now": "pipeline.engines.scoring_pass", "before": "pipeline.engines.exact"}
MOST = 1e-3  # nats


def rows(scratch: Path) -> list[Row]:
    folder, cases = student.checkpoint(scratch), scratch / "cases.json"
    cases.write_text(json.dumps({name: _case(folder, each) for name, each in CASES.items()}))
    code = {"now": before.HERE, "before": before.code(scratch / "before", "pipeline")}
    with contextlib.ExitStack() as stack:
        children = {
            name: stack.enter_context(_child(MODULES[name], code[name], folder, cases))
            for name in MODULES
        }
        found, gap = [], 0.0
        for case in CASES:
            taken: dict[str, list[float]] = {name: [] for name in MODULES}
            for repeat in range(REPEATS + 1):
                said = {name: _asked(child, case) for name, child in children.items()}
                gap = max(gap, _gap(said["now"], said["before"]))
                for name, one in said.items() if repeat else ():  # the first warms both
                    taken[name].append(one[0])
            found.append(row(case, "CPU s", "lower", before.COMMIT, *taken.values()))
    assert gap < MOST, f"the passes differ by {gap} nats"
    return [*found, row("exact_pass_gap", "nats", "lower", f"{MOST} at most", [gap], [MOST])]


def _case(folder: Path, each: int) -> list[list[list[int]]]:
    """Prompts, each `each` times, and other problems' texts as responses."""
    from pipeline.engines.chat import tokenizer_files
    from pipeline.engines.hf import prompt_ids

    tokenizer, problems = tokenizer_files.load(folder), student.problems(60)
    prompts = [list(map(int, prompt_ids(tokenizer, x.messages))) for x in problems[:PROMPTS]]
    stream = [int(t) for x in problems[PROMPTS:] for t in tokenizer.encode(x.prompt)]
    draw, responses = np.random.default_rng(0), []
    for _ in range(PROMPTS * each):
        first, length = draw.integers(len(stream) - LONGEST), draw.integers(SHORTEST, LONGEST + 1)
        responses.append(stream[first : first + length])
    return [[prompt for prompt in prompts for _ in range(each)], responses]


@contextlib.contextmanager
def _child(module: str, code: Path, folder: Path, cases: Path) -> Any:
    words = [str(Path(__file__).with_name("pass_cost.py")), module, str(folder), str(cases)]
    child = subprocess.Popen(
        [sys.executable, *words, str(threads())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(code)},
        cwd=code,
        text=True,
    )
    try:
        yield child
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(60)


def _asked(child: Any, case: str) -> Any:
    child.stdin.write(case + "\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def _gap(ours: Any, theirs: Any) -> float:
    pairs = zip(ours[1] + ours[2], theirs[1] + theirs[2], strict=True)
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs)
