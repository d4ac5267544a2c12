"""Python imports this at its start where this folder is on PYTHONPATH.

At its end a stage writes down which of the project's files it has loaded, in .loaded/KEY.
"""

import atexit
import json
import os
import sys
from pathlib import Path


def tell():
    argv = sys.orig_argv
    if "--cell" not in argv:
        return
    if "stage" in argv:  # omniopd stage X
        stage = argv[argv.index("stage") + 1]
    elif argv[1] == "-m" and argv[2].startswith("stages."):  # a rank
        stage = argv[2].partition(".")[2]
    else:
        return
    modules = [module for name, module in sys.modules.items() if name != "__main__"]
    files = {getattr(module, "__file__", None) or "" for module in modules}
    here = [f"{Path.cwd()}/{name}/" for name in ("pipeline", "stages", "extensions")]
    own = {os.path.relpath(file) for file in files if file.startswith(tuple(here))}
    own.add(f"stages/{stage}.py")  # it ran as __main__
    folder = Path(".loaded")
    folder.mkdir(exist_ok=True)
    (folder / argv[argv.index("--cell") + 1]).write_text(json.dumps(sorted(own)))


atexit.register(tell)
