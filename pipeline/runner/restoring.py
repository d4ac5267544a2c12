"""Outs that were only deleted, brought back from DVC's cache before anything is run.

DVC restores them one stage after another where it reproduces, by its run-cache; `dvc checkout`
does it for all at once, in a tenth of the time.
"""

import subprocess
from pathlib import Path

from pipeline.core import dvc_objects
from pipeline.runner import retention
from pipeline.stage.cells import log

MOST = 5000  # paths on one command line


def restore(keep: retention.Keep, command: list[str], environment: dict[str, str]) -> None:
    """Have `command`, which is `dvc checkout`, bring back what is gone of cells that ran.

    Weights that `keep` drops are left out. What cannot be restored is left to who reproduces.
    """
    dropped = {str(path) for name in keep.readers for path in retention.weights(name)}
    gone = [path for path in dvc_objects.outs() if not Path(path).exists() and path not in dropped]
    if not gone:
        return
    # by path where some are to stay away; else without, which DVC looks up in no time
    arguments = gone[:MOST] if dropped else []
    arguments = ["--quiet", "--allow-missing", *arguments]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
    left = sum(not Path(path).exists() for path in gone)
    log.info(f"{len(gone) - left} of {len(gone)} missing outs are back from DVC's cache")
    if done.returncode and left:
        log.warning(f"dvc checkout: {done.stderr.strip()}")
