"""The files of our packages, of which every stage asks whether they are still what they were.

All of them are read: it takes a hundredth of a second, and a time or a size can stay what it is
where the content does not.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES, EXTENSIONS = ("pipeline", "stages"), "extensions"
OWN = (*PACKAGES, EXTENSIONS)
# what decides whether and in which process a stage runs, and never what it writes
MACHINERY = (
    "pipeline.code_digest",
    "pipeline.processes.program",
    "pipeline.commands.entry",
    "pipeline.core.extensions",
    "pipeline.processes.launch",
    "pipeline.processes.fork_server",
    "pipeline.processes.fork_worker",
    "pipeline.processes.cell_log",
    "pipeline.training.trackers",  # gets a copy of what is measured
    "pipeline.stage.ahead",
)
START = "stages"  # likewise this package itself: locks of cells, signals; not the stages in it


def root() -> Path:
    """The folder that the packages of this process lie in."""
    return Path(__file__).parents[2]


def read(folder: Path, project: Path = Path()) -> dict[str, bytes]:
    """Path below `folder` and content of each file of the packages there; and of the experiment's
    own code in `project`."""
    return {**dict(_files(folder, *PACKAGES)), **dict(_files(project, EXTENSIONS))}


def _files(folder: Path, *names: str) -> Iterator[tuple[str, bytes]]:
    waiting = [folder / name for name in names]
    while waiting:
        place = waiting.pop()
        for path in place.iterdir() if place.is_dir() else ():
            if path.is_dir():
                waiting += [path] if path.name != "__pycache__" else []
            else:
                yield path.relative_to(folder).as_posix(), path.read_bytes()


def key(files: Mapping[str, bytes]) -> str:
    """Hash of every path and content."""
    digest = hashlib.sha256()
    for path, content in sorted(files.items()):
        digest.update(f"{path}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def machinery(name: str) -> bool:
    """Whether a module is no part of any stage's code."""
    return name == START or any(name == one or name.startswith(f"{one}.") for one in MACHINERY)
