"""The exact pass of whichever code is on PYTHONPATH, in a process of its own.

    python pass_cost.py MODULE CHECKPOINT CASES THREADS

CASES is a file of {NAME: [prompts, responses]}. A line in: a NAME. A line out: the CPU seconds of
its pass, and the values, in order: [seconds, [[log-probability, ...], ...], [[entropy, ...], ...]].
"""

import importlib
import json
import sys
import time
from pathlib import Path

TOKENS = 65_536  # runtime.batch_tokens of the default experiment


def main() -> None:
    module, folder, cases, threads = sys.argv[1:]
    import torch

    torch.set_num_threads(int(threads))
    from pipeline.engines.hf import load

    exact, policy = importlib.import_module(module).exact, load(Path(folder))
    told = json.loads(Path(cases).read_text())
    for line in sys.stdin:
        prompts, responses = told[line.strip()]
        begin = time.process_time()
        found = sorted(exact(policy, prompts, responses, TOKENS), key=lambda one: int(one[0]))
        taken = time.process_time() - begin
        values = [[[float(x) for x in one[k]] for one in found] for k in (1, 2)]
        sys.stdout.write(json.dumps([taken, *values]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
