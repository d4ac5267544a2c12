"""Code that does the same as other code did, line for line of the locks; known, and tried once.

A lock cannot tell a function that was written otherwise from one that does something else. Where
a change of this project touches every stage and what they compute stays, byte for byte, it says so
here: a cell that ran with the lines of before is taken to be what the lines of now would make.
"""

from collections import Counter
from typing import Any

from pipeline.behaviour import history, locks
from pipeline.behaviour.code import CALLS

# how a stage finds its params and paths: in plan.yaml and its command line before, in the cell's
# own file now
BEFORE: frozenset[str] = frozenset()
NOW: frozenset[str] = frozenset()


def accepted(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of dvc.lock with the lock of code that is here, if the one it had says the same."""
    ran = history.dependency(entry)
    if ran is None:
        return entry
    variant, md5 = ran
    here, old = locks.read(variant), history.text(variant, md5)
    if here is None or old is None or not same(old, here):
        return entry
    data = here.encode()
    own = {"md5": history.md5(here), "size": len(data)}
    place = str(locks.path(variant))
    return entry | {"deps": [dep | own if dep["path"] == place else dep for dep in entry["deps"]]}


def same(old: str, new: str) -> bool:
    """Whether two locks differ in nothing but what is known to be the same."""
    before, after = (Counter(old.splitlines()), Counter(new.splitlines()))
    gone, come = (
        {x for x in some if not x.startswith(f"{CALLS} ")}
        for some in (before - after, after - before)
    )  # which parts call which follows from the parts, where these are other ones
    return bool(gone | come) and gone <= BEFORE and come <= NOW
