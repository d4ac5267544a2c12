"""Complete params files for real set-ups, to start from."""

import itertools
import shutil
from pathlib import Path

from pipeline import blocks, experiment
from pipeline.cells import write_text
from pipeline.errors import UserError

FOLDER = Path("profiles")
PARAMS = blocks.PARAMS


def put(name: str) -> str:
    """Validate profiles/NAME.yaml and make it params.yaml; the old one is kept beside it."""
    source = FOLDER / f"{name}.yaml"
    if not source.is_file():
        known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
        raise UserError(f"profiles: no {name!r}; there are {known}. Name one of them.")
    experiment.load(source)
    kept = ""
    if PARAMS.is_file() and PARAMS.read_text(encoding="utf-8") != source.read_text(
        encoding="utf-8"
    ):
        old = _kept(PARAMS)
        kept = f" The one before it is {old}."
    write_text(PARAMS, source.read_text(encoding="utf-8"))
    return f"params.yaml is {source}.{kept} Next: `omniopd repro`."


def _kept(path: Path) -> Path:
    """A copy beside it that overwrites no other: .old, .old.2 and so on; an equal one serves."""
    for number in itertools.count(1):
        old = path.with_name(f"{path.name}.old" + f".{number}" * (number > 1))
        if not old.exists():
            shutil.copyfile(path, old)
        if old.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"):
            break
    return old
