"""Where a train stage sends the metrics of each step while it runs: `runtime.log_to`.

A module of this package for each library. Each finds its server, folder and key as it always does,
by its own environment variables. What is sent is a copy: cells write and read metrics.jsonl. So a
library that fails is left out with a warning, and the stage goes on.
"""

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from pipeline.core.errors import UserError

log = logging.getLogger("omniopd")
Tell = Callable[[int, Mapping[str, Any]], None]  # a step, counted over all rounds, its metrics


class Run(NamedTuple):
    """What a cell is called there."""

    project: str  # the folder's name
    group: str  # of the rounds of one student
    name: str
    config: dict[str, Any]  # the cell's params


class Tracker(Protocol):
    def __init__(self, run: Run) -> None: ...

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def tracking(names: Sequence[str], run: Run) -> Iterator[Tell]:
    """Yield what takes each step's metrics.

    Raises UserError for a library that is not there, or that would ask who logs.
    """
    kinds, opened = {name: _kind(name) for name in names}, dict[str, Tracker]()
    for name, kind in kinds.items():
        with _left_out(name, opened):
            opened[name] = kind(run)

    def tell(step: int, metrics: Mapping[str, Any]) -> None:
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)}
        for name, one in list(opened.items()):
            with _left_out(name, opened):
                one.log(step, numbers)

    try:
        yield tell
    finally:
        for name, one in list(opened.items()):
            with _left_out(name, opened):
                one.close()


def _kind(name: str) -> type[Tracker]:
    try:
        found: type[Tracker] = importlib.import_module(f"{__name__}.{name}").Tracker
    except ImportError as error:
        raise UserError(
            f"runtime.log_to: found {name}, whose library is not there ({error}), wanted it "
            f"installed. Run `pip install {name}`, or leave it out."
        ) from error
    return found


@contextlib.contextmanager
def _left_out(name: str, opened: dict[str, Tracker]) -> Iterator[None]:
    """Whatever a library raises, for a copy a run is not stopped; its message may hold a key."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001
        opened.pop(name, None)
        log.warning(f"runtime.log_to: {name} failed ({type(error).__name__}) and is left out")
