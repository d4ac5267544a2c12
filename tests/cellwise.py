"""Run a project's cells in one process, by their command lines: `python -m tests.cellwise`.

In the current directory, in dependency order, without DVC, but for groups that are named. Each cell
imports the project's own code anew, as a process of its own would, so what it loads is known: it
goes to loaded.json. With CALLS in the environment, the functions that it calls go to called.json.
"""

import json
import os
import runpy
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

OWN = ("pipeline", "stages")
FUNCTION = 1  # CO_OPTIMIZED: a function, no module or class body


def main() -> None:
    from pipeline.plan import expand, experiment

    found = expand.expand(experiment.load())

    loaded, called, left_out = {}, {}, sys.argv[1:]
    calls = _Calls() if "CALLS" in os.environ else None
    for name in expand.upstream(found):
        group, _, key = name.partition("@")
        if group in left_out:
            continue
        module, rest = f"stages.{group.partition('-')[0]}", ["--cell", key]
        for own in [own for own in sys.modules if own.split(".")[0] in OWN]:
            del sys.modules[own]
        sys.argv = [module, *rest]
        if calls is not None:
            calls.taken()  # of what is done here
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        loaded[name] = [*_files(), module.replace(".", "/") + ".py"]
        if calls is not None:
            called[name] = calls.taken()
    Path("loaded.json").write_text(json.dumps(loaded))
    Path("called.json").write_text(json.dumps(called))


class _Calls:
    """The project's own functions that were called, by file and name."""

    def __init__(self) -> None:
        self.seen: dict[int, CodeType] = {}  # kept, so that no other gets its number
        sys.setprofile(self.look)
        threading.setprofile(self.look)

    def look(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            self.seen[id(frame.f_code)] = frame.f_code

    def taken(self) -> list[tuple[str, str]]:
        """Since the last time."""
        found, self.seen = self.seen.values(), {}
        root = os.getcwd() + os.sep
        functions = [code for code in found if code.co_flags & FUNCTION]
        places = {(os.path.abspath(x.co_filename), x.co_qualname) for x in functions}
        own = {(path.removeprefix(root), name) for path, name in places if path.startswith(root)}
        return sorted((path, name) for path, name in own if path.split(os.sep)[0] in OWN)


def _files() -> list[str]:
    root = os.getcwd() + os.sep
    first = "__mp_main__"  # what was __main__ when multiprocessing was imported
    modules = [module for name, module in list(sys.modules.items()) if module and name != first]
    files = [getattr(module, "__file__", None) or "" for module in modules]
    return sorted({f.removeprefix(root) for f in files if f.startswith(root)})


if __name__ == "__main__":
    main()
