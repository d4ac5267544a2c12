"""The command `omniopd`: a stage at once, anything else through the whole command line.

A stage starts thousands of times, so nothing that only the command line needs is imported for it.
Neither the folder of the project nor that of the command is where Python looks for modules: a
folder of the user's called stages/, pipeline/ or data/ shadows nothing.
"""

import os
import runpy
import sys
from pathlib import Path

SAFE = "PYTHONSAFEPATH"  # likewise for the Python programs that a stage starts


def main() -> None:
    """Run what the command line says. The exit status is that of the stage or command."""
    if sys.argv[1:2] == ["stage"] and sys.argv[2:3] and sys.argv[2] in stages():
        run(sys.argv[2], sys.argv[3:])
        return
    from pipeline import cli

    cli.main()


def stages() -> set[str]:
    """The names of the stages that are installed beside this package."""
    folder = Path(__file__).parents[1] / "stages"
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}


def run(name: str, words: list[str]) -> None:
    """Run stage `name` with these words as its command line, in this process."""
    if not sys.flags.safe_path:
        del sys.path[0]
    os.environ[SAFE] = "1"
    sys.argv[:] = [name, *words]
    runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
