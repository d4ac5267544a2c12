"""Code that does the same as other code did, line for line of the locks.

A lock cannot tell a function that was written otherwise from one that does something else. Where
a change of this project touches every stage and what they compute stays, byte for byte, it says so
here: a cell that ran with the lines of before is taken to be what the lines of now would make.
"""

import functools
from collections import Counter
from typing import Any

from pipeline.behaviour import history, locks
from pipeline.behaviour.code import CALLS

# how a stage finds its params and paths: in plan.yaml and its command line before, in the cell's
# own file now
BEFORE = {
    "DAG 15fd0a6e6e5aef0f",
    "GROUP ea13fd8077a3144b",
    "LOCK c124cf0ab15e38d4",
    "PLAN 246259566fb2bee8",
    "_cell 29d8b66d0e95adb1",
    "_lines 1e550b71cbd35fd6",
    "_values 75a8fd3bd20fd4cf",
    "arguments 365b1537dc055df4",
    "cell 0592acfad8923841",
    "check_code 4fb6d4c4971f6f1e",
    "command bd7fb681a2e2864e",
    "deps 2f194772fc721126",
    "inner a3b8ade29475f770",
    "mapping 637fca8a49ecab75",
    "outs bf050a608d635af3",
    "params 819b95440031c068",
    "run a2cadb05e4b51cb3",
    # how a stage is started, and values that name a file of extensions/
    "Child 12887f64df3ffb92",
    "Metric 540798efee64b351",
    "Scheduler de30ca854c39245c",
    "_imitated 0dd901ba659efcf6",
    "_prepare 69440539e478f8c1",
    "arguments cd29dd4008552635",
    "chosen 3bd85c738e1d1a7a",
    "explained 6c73f2cf6781c0ea",
}
NOW = {
    "CHECKPOINT 5b7e520f1e083ccb",
    "DAG aeb7ac31929d0cd3",
    "DERIVED c1d3dbcf01c7343e",
    "DVC 123e9db9da2f74c7",
    "HOSTED 351da87f5414cff0",
    "INPUTS 03ff5b8c71d39e9e",
    "INSIDE 9cb7a12901eaca76",
    "Input ab7808c110945ecf",
    "LOCK 123e9db9da2f74c7",
    "MOMENTS 5b7e520f1e083ccb",
    "NAMED 808072748de690e5",
    "NAMED fee9368df00d548b",
    "REPORT b5a78248b68c2d8e",
    "REPORT c735e2646a2596c3",
    "TRAINED dfe1db6d1e6c8b5a",
    "_file d582f8dcc0abf976",
    "_fill 1d1b8aa826459160",
    "_inputs 232c796dbd7bfc67",
    "_model 85a21ebe1350aa46",
    "_values 2ad15c8c354b1474",
    "arguments cd29dd4008552635",
    "cell 9e238263ad4f3053",
    "cell_name 67986f3e9ecba80e",
    "check_code bf12f9dcb4603ae6",
    "deps 1f2fe8f0bda3b812",
    "deps 818171002729cd10",
    "file 9d13b0a1b64e725f",
    "i 03ff5b8c71d39e9e",
    "inner 305cb27e1d592acc",
    "locks 07043b3ee71e50a1",
    "made 9ef39e4fbff4f1af",
    "mapping 51cef7ace0bc08f9",
    "name 03ff5b8c71d39e9e",
    "name_of a1673ae161a2a353",
    "out ad049da623867ea8",
    "outs 7b22bee60c57e424",
    "params e42127e2d4284b4b",
    "place d75b472741066022",
    "reads ae65338702722651",
    "run a1f32c4ed8d16a8a",
    "stage adb45d62e69858c7",
    "where 29e6ae742d324aea",
    "Child b11e7486f6d879f6",
    "Chosen 8c0fffec66b668c7",
    "FILES a69c20bd13e86612",
    "Metric 3296b0353a634f5f",
    "Scheduler 379e6e8a39049323",
    "_imitated 2db386659f553335",
    "_own 6b1ecab4e27a1d82",
    "_prepare 6f13cf85d6b1b855",
    "arguments 21265530fff92f39",
    "chosen 44f3d669ccc5fa38",
    "explained 5d0ff36b9285cad3",
    "file_of 73f7cc5e959d1a93",
}


def accepted(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of dvc.lock with the lock of code that is here, if the one it had says the same."""
    ran = history.dependency(entry)
    if ran is None:
        return entry
    variant, md5 = ran
    here, old = locks.read(variant), _text(variant, md5)
    if here is None or old is None or not same(old, here):
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
