"""The hash of what a file or folder of rows holds, by which a cell knows it."""

import functools
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.data import row_files


@functools.cache
def sha256(path: str, wanted: str | None = None) -> str:
    """Hash of the content of a file or folder. Raises UserError where it is not `wanted`."""
    found = row_files.sha256(Path(path))
    if wanted not in (None, found):
        raise UserError(
            f"{path}: its content has the hash {found}, wanted {wanted}. If the file has changed "
            "on purpose, run `omniopd plan` (and take sha256 out of params.yaml)."
        )
    return found
