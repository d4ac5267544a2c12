"""Complete params files to start from, NAME.yaml beside this module. `default` is the experiment
that needs no download."""

import itertools
import shutil
from pathlib import Path

from pipeline.config.teachers import LocalTeacher
from pipeline.core.errors import UserError
from pipeline.plan import blocks, experiment
from pipeline.stage.cells import write_text

FOLDER = Path(__file__).parent
PARAMS = blocks.PARAMS


def put(name: str) -> str:
    """Validate a profile and make it params.yaml; the old one is kept beside it."""
    found, kept = text(name), ""
    if PARAMS.is_file() and PARAMS.read_text(encoding="utf-8") != found:
        old = _kept(PARAMS)
        kept = f" The one before it is {old}."
    write_text(PARAMS, found)
    return f"params.yaml is profile {name}.{kept} Next: {after(name)}."


def after(name: str, where: str = "") -> str:
    """What to type once a profile is params.yaml: prices and a check first where it buys."""
    file = loaded(name)
    run = f"`{where}omniopd repro`"
    if all(isinstance(teacher, LocalTeacher) for teacher in file.teachers.values()):
        return run
    first = f"`{where}omniopd estimate` and `omniopd teacher check`"
    return f"{first} (its teacher is paid), then {run}"


def loaded(name: str) -> blocks.Experiment:
    """A profile's experiment. Raises UserError."""
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if name not in known:
        raise UserError(f"profiles: no {name!r}; there are {known}. Name one of them.")
    return experiment.load(FOLDER / f"{name}.yaml")


def text(name: str) -> str:
    """A profile, validated. Raises UserError."""
    loaded(name)
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def _kept(path: Path) -> Path:
    """A copy beside it that overwrites no other: .old, .old.2 and so on; an equal one serves."""
    for number in itertools.count(1):
        old = path.with_name(f"{path.name}.old" + f".{number}" * (number > 1))
        if not old.exists():
            shutil.copyfile(path, old)
        if old.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"):
            break
    return old
