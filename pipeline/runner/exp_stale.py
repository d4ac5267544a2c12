"""Say what to do where `dvc exp run -S` has changed params.yaml and DVC runs the old plan."""

import os
from pathlib import Path
from typing import Any

from pipeline.config import renamed
from pipeline.config.yaml_edit import flat
from pipeline.core import git, yaml_files
from pipeline.core.errors import UserError
from pipeline.plan import experiment
from pipeline.plan.blocks import PARAMS

INSIDE = "DVC_EXP_NAME"  # what DVC sets for the stages of an experiment
FOLDER = "DVC_ROOT"  # likewise: of the project, also where it runs in a copy
SHOWN = 5  # changed keys that a message names


def inside() -> bool:
    """Whether DVC runs this as a stage of an experiment."""
    return INSIDE in os.environ


def error(said: str) -> UserError:
    """Why stage `plan` stops in an experiment that DVC runs by itself, and what to do instead."""
    changed = _changed()
    sets = " ".join(f"-S {one}" for one in changed[:SHOWN])
    if not changed or len(changed) > SHOWN:
        sets = "-S KEY=VALUE"
    back = "`git checkout HEAD -- params.yaml`"
    if not _committed():
        back = "take back what -S changed, as `git diff params.yaml` shows it"
    if Path.cwd() == Path(os.environ.get(FOLDER, Path.cwd())):
        first = f"Put params.yaml back ({back}), then run"
    else:
        first = "Run"
    return UserError(
        f"{said}: `dvc exp run` reads the graph before -S changes params.yaml, wanted the plan of "
        f"the new values. {first} `omniopd exp run {sets}`, which plans first."
    )


def _changed() -> list[str]:
    """KEY=VALUE for each key of params.yaml that the last commit has otherwise."""
    text = git.asked("show", f"HEAD:./{PARAMS}").strip()
    values = yaml_files.parsed(text, "HEAD") if text else {}
    before = dict(flat(renamed.current(values, experiment.RENAMED, "HEAD")))
    now = dict(flat(experiment.read_yaml(PARAMS)))
    return [f"{key}={_shown(value)}" for key, value in now.items() if before.get(key) != value]


def _committed() -> bool:
    """Whether dag/ is the last commit's, but for what DVC writes; so is params.yaml before -S."""
    return not git.said("status", "--porcelain", "--", "dag", ":(exclude,glob)dag/**/dvc.lock")


def _shown(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"[{','.join(map(_shown, value))}]"
    return str(value)
