"""How long a stage with a model takes to begin, where a run's fork server starts it.

stage_start           a whole stage `evaluate` of one batch of 8 rows and one token, on the demo's
                      student; peer: the same at a5430f8
stage_start_train     likewise `train`, of one step
stage_start_rollout   likewise `rollout`
stage_start_plain     `evaluate` without a server; peer: a5430f8's

From the start of the command line to its end, so all figures are above what they are named after:
the batch itself and what is written are in them. The server has imported all that it does.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.before import COMMIT
from benchmarks.clones import Clone, Params
from benchmarks.measure import Row, row

SERVERS = {"now": "pipeline.processes.fork_server", "before": "pipeline.forkserver"}
ROWS = {"stage_start": "evaluate", "stage_start_train": "train", "stage_start_rollout": "rollout"}
PLAIN = "stage_start_plain"
REPEATS = 5


def rows(scratch: Path) -> list[Row]:
    clones = [Clone(scratch, which) for which in SERVERS]
    found: dict[str, list[list[float]]] = {name: [[], []] for name in (*ROWS, PLAIN)}
    with contextlib.ExitStack() as stack:
        asked = [stack.enter_context(_stages(clone)) for clone in clones]
        for repeat in range(REPEATS + 1):
            for name in found:
                for one, (ask, commands) in enumerate(asked):
                    taken = ask(commands[ROWS.get(name, "evaluate")], name == PLAIN)
                    if repeat:  # the first starts the servers
                        found[name][one].append(taken)
    return [row(name, "s", "lower", COMMIT, *taken) for name, taken in found.items()]


@contextlib.contextmanager
def _stages(clone: Clone) -> Iterator[Any]:
    """A function that runs a command line and says its seconds, and one of each stage."""
    clone.edit(_small)
    clone.run("omniopd", "repro")
    commands = {name.partition("@")[0].partition("-")[0]: c for name, c in clone.commands().items()}
    words = [clone.python, "-P", str(Path(__file__).with_name("start_cost.py"))]
    with subprocess.Popen(
        [*words, SERVERS[clone.which]],
        cwd=clone.folder,
        env=clone.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def ask(command: str, plain: bool) -> float:
            assert child.stdin is not None
            assert child.stdout is not None
            without = "env -u OMNIOPD_FORKSERVER " if plain else ""
            child.stdin.write(f"{without}{' '.join(command.split())}\n")
            child.stdin.flush()
            taken = float(child.stdout.readline())
            assert taken > 0, f"{clone.which}: {command} failed"
            return taken

        yield ask, commands
        child.stdin.close()


def _small(params: Params) -> None:
    """One arm and round of 8 rows, models that hardly trained."""
    params["experiment"] |= {"rounds": 1, "arms": ["omniopd"]}
    params["prepare"] |= {"train": 16, "dev": 8, "test": 8}
    for model in params["pretrain"]["models"].values():
        model["steps"] = 2
    params["rollout"] |= {"prompts_per_round": 4, "samples_per_prompt": 2, "max_new_tokens": 12}
    params["score"]["allow_flat"] = True
    params["evaluate"] |= {"problems": 8, "samples": 1, "max_new_tokens": 1}
