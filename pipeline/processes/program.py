"""A stage as a process of its own: which there are, and how one is run.

Neither the folder of the project nor that of the command is where Python looks for modules: a
folder of the user's called stages/, pipeline/ or data/ shadows nothing.
"""

import os
import runpy
import sys
from pathlib import Path

SAFE = "PYTHONSAFEPATH"  # likewise for the Python programs that a stage starts


def stages() -> set[str]:
    """The names of the stages that are installed beside this package."""
    folder = Path(__file__).parents[2] / "stages"
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}


def run(name: str, words: list[str]) -> None:
    """Run stage `name` with these words as its command line, in this process."""
    if not sys.flags.safe_path:
        del sys.path[0]
    os.environ[SAFE] = "1"
    sys.argv[:] = [name, *words]
    runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)
