"""Taking in what a spool holds: each answer and each line of the ledger once."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.judgments import spool
from pipeline.judgments.database import Refused
from pipeline.judgments.store import Store

log = logging.getLogger("omniopd")


@dataclass(frozen=True)
class Recovered:
    """Counts of what was taken in."""

    answers: int  # that the store lacked
    replies: int  # lines read
    damaged: int  # bytes that were moved aside
    busy: int  # files that another process still writes to


def take_in(store: Store) -> int:
    """Store what earlier runs of this project could not. Return how many answers were new."""
    if store.spool is None or not store.spool.folder.is_dir():
        return 0
    if others := store.spool.others():
        _say_once(others)
    waiting = store.spool.waiting()
    new = recover(store, waiting).answers if waiting else 0
    if new:
        log.info(
            f"judgments: {new} answers that an earlier run could not store were taken in from "
            f"{store.spool.folder}"
        )
    return new


def recover(store: Store, paths: Sequence[Path]) -> Recovered:
    """Take in these files and remove them. Raises UserError; what was not taken in stays."""
    answers = replies = damaged = busy = 0
    for path in paths:
        with spool.turn(path.parent):
            try:
                with spool.owned(path) as free:
                    found = spool.read(path)
                    new, refused = _stored(store, found)
                    answers, replies = answers + new, replies + len(found.kept)
                    if not free:
                        busy += 1
                        continue
                    left = found.damaged + refused
                    damaged += len(left)
                    if aside := spool.remove(path, left):
                        log.warning(
                            f"{path}: {len(left)} bytes are no whole reply, or the store refuses "
                            f"it; kept in {aside}. If its process was killed while it wrote, that "
                            "reply is lost; look into it, and remove it."
                        )
            except FileNotFoundError:  # another process has taken it in meanwhile
                continue
            except OSError as error:
                raise UserError(
                    f"{path}: could not be taken in ({error}). It holds answers that were paid "
                    "for. Free space or make it readable, then rerun."
                ) from error
    return Recovered(answers, replies, damaged, busy)


def _stored(store: Store, found: spool.Found) -> tuple[int, bytes]:
    new, refused = 0, b""
    for kept, line in found.kept:
        try:
            new += store.take_in(kept)
        except Refused as error:
            log.warning(str(error))
            refused += line
    return new, refused


_said: set[Path] = set()


def _say_once(others: list[Path]) -> None:
    fresh = set(others) - _said
    _said.update(fresh)
    if fresh:
        log.warning(
            f"judgments: {len(fresh)} files with answers of another store wait in "
            f"{others[0].parent}. Set JUDGMENTS_URL to that one, or take them into this one with "
            f"`omniopd judgments recover {others[0]}`."
        )
