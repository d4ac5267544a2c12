"""The plan as files below dag/, a folder for each arm and seed: small ones, as DVC reads and
writes a whole dvc.lock for each stage that it runs.

    dag/ARM/seed-S/dvc.yaml   stages of the cells that this arm alone has, under this seed alone
    dag/shared/seed-S         of those that several arms have; all-seeds: that several seeds have
    dag/cells/STAGE/KEY.yaml  what a cell is: an ordinary dependency of its stage. It lies at the
                              same place whichever arms have the cell, so that DVC's run-cache
                              finds the cell in every experiment that shares the cache
    dag/report.yaml           likewise of the report, whose stage stands in dvc.yaml by hand

A stage is called GROUP-KEY there, where the plan says GROUP@KEY. All of it is literal: what
changes one cell changes its own file and its own lines.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.core.dag_names import DAG, DVC, REPORT, ROOT, SHARED, cell_file, stage_name
from pipeline.plan import expand
from pipeline.stage import dataflow

HEADER = "# Made by `omniopd plan` from params.yaml. Commit it; do not edit it.\n"
EVERY_SEED = "all-seeds"
OK = Path("data/plan.ok")
BACK = "../../.."  # from a folder below dag/ to the project's


def folders(found: dict[str, Any]) -> dict[str, Path]:
    """The folder of each cell of a plan, in dependency order; ROOT of the report."""
    reads = expand.upstream(found)
    users = _users(found, reads)
    placed = {REPORT: ROOT}
    return {name: placed.get(name) or _folder(users[name]) for name in reads}


def stage(found: dict[str, Any], folder: Path, cell: str) -> dict[str, Any]:
    """The stage of a cell, as a dvc.yaml has it."""
    group, _, key = cell.partition("@")
    content = found["cells"][group][key]
    read = dataflow.deps(group, content)
    # the others read one of these at least: so nothing runs before stage `plan`
    first = [str(OK)] if dataflow.stage(group) == "prepare" else []
    own = [str(cell_file(dataflow.stage(group), key)), f"code/{content['code']}.lock"]
    return {
        "wdir": BACK,
        "cmd": f"omniopd stage {dataflow.stage(group)} --cell {key}",
        "deps": [*own, *first, *read],
        "outs": dataflow.outs(group, key, content),
    }


def texts(found: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Every file of a plan below dag/, and what it is to hold."""
    stages = defaultdict[Path, dict[str, Any]](dict)
    for cell, folder in folders(found).items():
        group, _, key = cell.partition("@")
        content = found["cells"][group][key]
        yield cell_file(dataflow.stage(group), key), as_yaml(dataflow.content(group, key, content))
        if folder != ROOT:
            stages[folder][stage_name(cell)] = stage(found, folder, cell)
    for folder, own in stages.items():
        yield folder / DVC, HEADER + as_yaml({"stages": own})


def as_yaml(content: dict[str, Any]) -> str:
    """Write YAML by libyaml, in a tenth of the time: a plan may have ten thousand cells."""
    yaml = YAML(typ="safe")
    yaml.default_flow_style, yaml.width = False, 4096
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.representer.ignore_aliases = lambda *_: True
    stream = StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def _users(found: dict[str, Any], reads: dict[str, set[str]]) -> dict[str, set[tuple[str, str]]]:
    """Arm and seed of each round that a cell is a part of, or is read for."""
    names = {name.partition("@")[2]: name for name in reads}
    users = defaultdict[str, set[tuple[str, str]]](set)
    for arm, seeds in expand.named(found).items():
        for seed, rounds in seeds.items():
            keys = (key.rpartition("/")[2] for own in rounds.values() for key in own.values())
            for name in above(reads, {names[key] for key in keys}):
                users[name].add((arm, seed))
    return users


def above(reads: dict[str, set[str]], of: Iterable[str]) -> set[str]:
    """Cells, and all that they read."""
    found, waiting = set[str](), list(of)
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += reads[name]
    return found


def _folder(users: set[tuple[str, str]]) -> Path:
    arms, seeds = {arm for arm, _ in users}, {seed for _, seed in users}
    arm = arms.pop() if len(arms) == 1 else SHARED
    return DAG / arm / (seeds.pop() if len(seeds) == 1 else EVERY_SEED)
