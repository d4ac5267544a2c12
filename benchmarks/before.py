"""This project as it was at a named commit, to be measured beside what it is now."""

import io
import subprocess
import tarfile
from pathlib import Path

HERE = Path(__file__).parent.parent
COMMIT = "a5430f8"


def code(folder: Path, *paths: str, commit: str = COMMIT) -> Path:
    """Write `paths` as of a commit into `folder`, which is returned; from the history in git."""
    command = ["git", "-C", str(HERE), "archive", commit, *paths]
    packed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder
