"""What the command line calls an experiment: a sweep's point, a folder, or a revision of git.

Each is found as its arms with their cells, by dag/report.yaml of its plan, and nothing is run: what
was planned by another version of the code can be compared as well.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.config.yaml_edit import flat
from pipeline.core import dag_names, dvc_objects, git, yaml_files
from pipeline.core.errors import UserError, short
from pipeline.plan import experiment, sweeps
from pipeline.plan.blocks import PARAMS
from pipeline.stage.dataflow import REPORT
from pipeline.stage.run_records import Arms

REPORT_FILE = dag_names.cell_file(REPORT, REPORT)
REMEDY = "Compare experiments that `omniopd plan` has written."
READ = re.compile(r"data/\w+/(c[0-9a-f]{8})(?:/|$)")  # of a cell's dependencies
# of no cell, or another name for what other keys say
APART = ("runtime", "sweep", "experiment.notes", "experiment.keep_checkpoints")


@dataclass(frozen=True)
class Experiment:
    """Its arms, by the names that they have without a sweep, and where what they wrote lies."""

    name: str
    folder: Path  # with dag/, params.yaml and dvc.lock files; data/ may be missing
    cache: Path  # of DVC
    arms: Arms
    split: str  # of the problems that its arms are evaluated on
    values: dict[str, Any]  # of params.yaml, by key with dots
    cells: frozenset[str]  # keys of all that its arms are made of
    prompts: Path | None = None  # the folder of its problems


def experiments(names: Sequence[str], stack: ExitStack) -> list[Experiment]:
    """What `names` stand for, in their order; a sweep stands for its points. Raises UserError.

    `stack` keeps the folders that revisions are taken out into.
    """
    places = _places()
    found: list[Experiment] = []
    for name in names:
        if name in places:
            found += [_point(label, places[name]) for label in places[name]]
            continue
        sweep = next((own for own in places.values() if name in own), None)
        if sweep is not None:
            found.append(_point(name, sweep))
        elif (Path(name) / PARAMS).is_file():
            found.append(_folder(name, Path(name).resolve()))
        elif revision := _revision(name):
            found.append(_folder(name, _taken_out(revision, stack), dvc_objects.configured()))
        else:
            points = [*places, *(label for own in places.values() for label in own)]
            raise UserError(
                f"compare {name}: found no such experiment, wanted a revision of git, an "
                f"experiment of DVC, a folder with {PARAMS}, or a sweep or point of "
                f"{points or PARAMS}. Correct the name."
            )
    again = {one.name for one in found if [x.name for x in found].count(one.name) > 1}
    if again:
        raise UserError(f"compare: found {sorted(again)} twice, wanted each once. Remove one.")
    return found


def _places() -> sweeps.Places:
    """The sweeps of this folder, if it is an experiment's."""
    if not PARAMS.is_file():
        return {}
    return experiment.swept(experiment.read_yaml(PARAMS), str(PARAMS))[1]


def _point(label: str, sweep: dict[str, dict[str, str]]) -> Experiment:
    """A point of a sweep in this folder: its arms under their own names, and base."""
    whole = _folder(label, Path().resolve(), subset=True)
    named = {"base": "base", **sweep[label]}
    missing = [called for called in named.values() if called not in whole.arms]
    if missing:
        raise UserError(f"compare {label}: dag/ has no arm {missing[0]}. Run `omniopd plan`.")
    arms = {arm: whole.arms[called] for arm, called in named.items()}
    file, _ = experiment.swept(experiment.read_yaml(PARAMS), str(PARAMS))
    values = dict[str, Any]()
    for name, own in file.sweep.items():
        values |= next((x.values for x in sweeps.points(name, own) if x.label == label), {})
    cells = frozenset(_above(whole.folder, arms))
    return replace(whole, name=label, arms=arms, values=whole.values | values, cells=cells)


def _folder(name: str, folder: Path, cache: Path | None = None, subset: bool = False) -> Experiment:
    """`subset`: leave out its cells."""
    if not (folder / REPORT_FILE).is_file():
        raise UserError(f"compare {name}: found no {REPORT_FILE}, wanted its plan. {REMEDY}")
    found = yaml_files.mapping(
        yaml_files.text(folder / REPORT_FILE), f"{name}: {REPORT_FILE}", REMEDY, fast=True
    )
    report = found.get("params") or {}
    if not isinstance(report.get("arms"), dict):
        raise UserError(
            f"compare {name}: {REPORT_FILE}: found {short(found, 200)}, wanted params with arms. "
            f"{REMEDY}"
        )
    values = dict(flat(experiment.read_yaml(folder / PARAMS)))
    values = {key: value for key, value in values.items() if not _apart(key)}
    with contextlib.chdir(folder):
        place = cache or dvc_objects.configured()
    paths = [] if subset else (folder / dag_names.DAG / dag_names.CELLS).glob("*/*.yaml")
    keys = frozenset(path.stem for path in paths)
    return Experiment(
        name,
        folder,
        place.resolve(),
        report["arms"],
        str(report.get("split")),
        values,
        keys,
        Path(str(report["prompts"])) if "prompts" in report else None,
    )


def _apart(key: str) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in APART)


def _above(folder: Path, arms: Arms) -> Iterator[str]:
    """Keys of the arms' cells and of all that these read."""
    cells = (folder / dag_names.DAG / dag_names.CELLS).glob("*/*.yaml")
    files, seen = {path.stem: path for path in cells}, set[str]()
    waiting = [
        key.rpartition("/")[2]
        for rounds in arms.values()
        for own in rounds.values()
        for stages in own.values()
        for key in stages.values()
    ]
    while waiting:
        key = waiting.pop()
        if key in seen or key not in files:
            continue
        seen.add(key)
        yield key
        text = yaml_files.text(files[key])
        waiting += READ.findall("\n".join(_deps(text, str(files[key]))))


def _deps(text: str, where: str) -> list[str]:
    return list(yaml_files.mapping(text, where, REMEDY, fast=True).get("deps") or ())


def _revision(name: str) -> str:
    """The commit that git, or DVC of an experiment, calls so; empty for none."""
    commit = git.asked("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").strip()
    if commit:
        return commit
    refs = git.asked("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").split("\n")
    named = [line.split(" ") for line in refs if line.endswith(f"/{name}")]
    return named[-1][0] if named else ""


def _taken_out(commit: str, stack: ExitStack) -> Path:
    """A folder with the plan and the dvc.lock files of a revision."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="omniopd-compare-")))
    there = set(git.said("ls-tree", "--name-only", commit).split("\n"))
    wanted = [
        name
        for name in (str(PARAMS), str(dag_names.DAG), dag_names.LOCK, dag_names.DVC)
        if name in there
    ]
    if str(PARAMS) not in wanted or str(dag_names.DAG) not in wanted:
        raise UserError(
            f"compare {commit[:10]}: found no {PARAMS} with {dag_names.DAG}/ in this folder of it, "
            f"wanted an experiment's. {REMEDY}"
        )
    packed = folder / "revision.tar"
    git.said("archive", "--format=tar", f"--output={packed}", commit, *wanted)
    shutil.unpack_archive(packed, folder)
    packed.unlink()
    return folder
