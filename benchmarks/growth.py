"""Growth of the stages that take minutes at 100x: their memory and seconds a row beside 1x."""

from pathlib import Path
from typing import Any

from benchmarks.stages import LONG, grown


def rows(scratch: Path) -> list[dict[str, Any]]:
    return grown(scratch, dict.fromkeys(LONG, (1, 100)))
