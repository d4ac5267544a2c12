"""params.yaml is loaded, and all that must fit together in it is checked, before anything runs."""

from pathlib import Path
from typing import Any

from pipeline.config import renamed
from pipeline.core import yaml_files
from pipeline.core.errors import UserError, short
from pipeline.plan import budget_caps, named_teachers, sweeps
from pipeline.plan.blocks import PARAMS, Experiment, Settings, validated
from pipeline.plan.checks import arms, choices, trainable, validate
from pipeline.plan.evaluation import held_out

RENAMED = renamed.names(Experiment)


def load(path: Path = PARAMS) -> Experiment:
    """Read and check params.yaml, every arm included. Raises UserError naming key and remedy."""
    return of(read_yaml(path), str(path))


def of(values: dict[str, Any], where: str) -> Experiment:
    """The experiment of these blocks, likewise; errors call them `where`."""
    return swept(values, where)[0]


def swept(values: dict[str, Any], where: str) -> tuple[Experiment, sweeps.Places]:
    """Likewise, and what each arm of a sweep is called at each of its points."""
    values = named_teachers.completed(renamed.current(values, RENAMED, where))
    experiment = validated(Experiment, values, where)
    validate.experiment(experiment)
    for name in experiment.arms:  # those too that are not run: a wrong key is found when written
        experiment.arm(name)
    for name in experiment.experiment.arms:
        _check(experiment, name, experiment.arm(name))
    validate.branches(experiment)
    for name in experiment.experiment.branch:
        _check(experiment, name, experiment.branch(name))
    places: sweeps.Places = {}
    if experiment.sweep:
        for name in {arm for sweep in experiment.sweep.values() for arm in sweep.arms}:
            _check(experiment, name, experiment.arm(name))
        experiment, places = sweeps.unfolded(experiment, _check)
        validate.experiment(experiment)
    budget_caps.check(experiment)
    held_out.check(experiment)
    return experiment, places


def _check(file: Experiment, name: str, arm: Settings) -> None:
    where = f"arms.{name}: " if file.arms[name] else ""
    choices.check(file, where, arm)
    arms.arm(file, name, arm)
    trainable.arm(file, where, arm)


def read_yaml(path: Path) -> dict[str, Any]:
    """The blocks of params.yaml, under the names of today. Raises UserError."""
    try:
        found = yaml_files.load(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found. Run this in the project's folder.") from error
    if not isinstance(found, dict):
        shown = "nothing" if found is None else short(found)
        raise UserError(
            f"{path}: found {shown}, wanted the blocks of an experiment, such as `train:`. Write "
            "one with `omniopd profile NAME`, or restore it with git."
        )
    return renamed.current(found, RENAMED, str(path))
