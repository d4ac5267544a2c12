"""Code that does the same as other code did, line for line of the locks.

A lock cannot tell a function that was written otherwise from one that does something else. Where
a change of this project touches every stage and what they compute stays, byte for byte, equal.txt
says so: a cell that ran with its lines of before (-) is taken to be what those of now (+) would
make.
"""

import functools
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.code_digest import history, locks
from pipeline.code_digest.code import CALLS

# What changed since 3c09d66: how a stage finds its params and paths and is started, values that may
# name a file of extensions/, classes cut by subject, objectives that declare themselves, functions
# that moved out of stages, names of functions and of what they hold, texts of errors, the column
# weight of targets for all but prior, omniopd and the report, where a stage looks for the line that
# a teacher stands in, rows that a rollout hands to who buys ahead. Runs of the default experiment
# and of all arms wrote the same bytes (LOG.md).
LISTED = (Path(__file__).parent / "equal.txt").read_text(encoding="utf-8").splitlines()
BEFORE = {line[2:] for line in LISTED if line[0] == "-"}
NOW = {line[2:] for line in LISTED if line[0] == "+"}


def accepted(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of dvc.lock with the lock of code that is here, if the one it had says the same."""
    ran = history.dependency(entry)
    if ran is None:
        return entry
    variant, md5 = ran
    here = locks.read(variant)
    if here is None or md5 == history.md5(here):
        return entry
    old = _text(variant, md5)
    if old is None or not same(old, here):
        return entry
    data = here.encode()
    own = {"md5": history.md5(here), "size": len(data)}
    place = str(locks.path(variant))
    return entry | {"deps": [dep | own if dep["path"] == place else dep for dep in entry["deps"]]}


@functools.cache
def _text(variant: str, md5: str) -> str | None:
    """Looked up once for all cells of a variant: in git it takes a while."""
    return history.text(variant, md5)


def same(old: str, new: str) -> bool:
    """Whether two locks differ in nothing but what is known to be the same."""
    before, after = (Counter(old.splitlines()), Counter(new.splitlines()))
    gone, come = (
        {x for x in some if not x.startswith(f"{CALLS} ")}
        for some in (before - after, after - before)
    )  # which parts call which follows from the parts, where these are other ones
    return bool(gone | come) and gone <= BEFORE and come <= NOW
