"""Code that does the same as other code did, line for line of the locks.

A lock cannot tell a function that was written otherwise from one that does something else. Where
a change of this project touches every stage and what they compute stays, byte for byte, it says so
here: a cell that ran with the lines of before is taken to be what the lines of now would make.
"""

import functools
from collections import Counter
from typing import Any

from pipeline.code_digest import history, locks
from pipeline.code_digest.code import CALLS

# How a stage finds its params and paths: in plan.yaml and its command line before, in the cell's
# own file now. How it and the worker of vLLM are started. Values that may name a file of
# extensions/. The store, what is bought and hosted teachers, cut into classes of one subject each.
# A run of the default experiment wrote the same bytes with either (LOG.md).
BEFORE = {
    "Child 12887f64df3ffb92",
    "DAG 15fd0a6e6e5aef0f",
    "GROUP ea13fd8077a3144b",
    "Hosted cdd7f6dca605575c",
    "Judging f86103fce640f52a",
    "LOCK c124cf0ab15e38d4",
    "Metric 540798efee64b351",
    "PLAN 246259566fb2bee8",
    "Scheduler de30ca854c39245c",
    "Store 8293ffc9489a303c",
    "_Line c78a47f81b01c2c4",
    "_Order f9464f1f6fa4f7b7",
    "_cell 29d8b66d0e95adb1",
    "_chunks 6e76096f1e5bd29b",
    "_ids 2d107e067118c474",
    "_imitated 0dd901ba659efcf6",
    "_lines 1e550b71cbd35fd6",
    "_prepare 69440539e478f8c1",
    "_unset 7859fe73930f99e8",
    "_values 75a8fd3bd20fd4cf",
    "arguments 365b1537dc055df4",
    "arguments a93e43b3a95cc3a6",
    "cell 0592acfad8923841",
    "check_code 4fb6d4c4971f6f1e",
    "chosen 3bd85c738e1d1a7a",
    "command bd7fb681a2e2864e",
    "deps 2f194772fc721126",
    "explained 6c73f2cf6781c0ea",
    "inner a3b8ade29475f770",
    "mapping 637fca8a49ecab75",
    "outs bf050a608d635af3",
    "params 819b95440031c068",
    "replies 488559c83608161f",
    "run a2cadb05e4b51cb3",
}
NOW = {
    "Adapter 1911f92a216f6c20",
    "Arrivals 0c823433013a6a23",
    "CELLS 5a0e7f35a9f4cb84",
    "CHECKPOINT 5b7e520f1e083ccb",
    "Child ef0805f014517c37",
    "Chosen 8c0fffec66b668c7",
    "Claims 6d67b4f14a5b6f74",
    "DAG aeb7ac31929d0cd3",
    "DERIVED c1d3dbcf01c7343e",
    "DVC 123e9db9da2f74c7",
    "FILES a69c20bd13e86612",
    "HOSTED 351da87f5414cff0",
    "Hosted 893d78f9ec02d95a",
    "INPUTS 03ff5b8c71d39e9e",
    "INSIDE 9cb7a12901eaca76",
    "Input ab7808c110945ecf",
    "Judging 090be5b5b510a536",
    "LOCK 123e9db9da2f74c7",
    "MOMENTS 5b7e520f1e083ccb",
    "Metric 3296b0353a634f5f",
    "NAMED 808072748de690e5",
    "NAMED fee9368df00d548b",
    "OpenDatabase 83bf6d976e773cdd",
    "REPORT b5a78248b68c2d8e",
    "REPORT c735e2646a2596c3",
    "Rendering 74e338660e95de27",
    "Scheduler 379e6e8a39049323",
    "Service f7d322963925ce1c",
    "Store 9c653f1bf24ccca2",
    "TRAINED dfe1db6d1e6c8b5a",
    "WORKER 8c5ec6c5c162267c",
    "_Line 1536f926b5606b4c",
    "_Order b9fa7e73e40d5648",
    "_file d582f8dcc0abf976",
    "_fill 1d1b8aa826459160",
    "_ids 0f16fbd7919b6bb3",
    "_imitated 2db386659f553335",
    "_inputs 232c796dbd7bfc67",
    "_model 85a21ebe1350aa46",
    "_own 6b1ecab4e27a1d82",
    "_prepare 6f13cf85d6b1b855",
    "_unset 66c130d7340e31c7",
    "_values 2ad15c8c354b1474",
    "arguments 21265530fff92f39",
    "arguments e0233e45e900890e",
    "cell 5f19b11c94e3dd45",
    "cell_file a4faada6c7c6e573",
    "cell_name 67986f3e9ecba80e",
    "check_code bf12f9dcb4603ae6",
    "chosen 44f3d669ccc5fa38",
    "chunks ea07f0ecae192f60",
    "deps 1f2fe8f0bda3b812",
    "deps 818171002729cd10",
    "entered 024529fe05eada89",
    "explained 5d0ff36b9285cad3",
    "file 1ed36ad388a1ac3e",
    "file_of 73f7cc5e959d1a93",
    "i 03ff5b8c71d39e9e",
    "inner 305cb27e1d592acc",
    "locks 07043b3ee71e50a1",
    "log 593f5c88c6938663",
    "made 9ef39e4fbff4f1af",
    "mapping 51cef7ace0bc08f9",
    "name 03ff5b8c71d39e9e",
    "name_of a1673ae161a2a353",
    "out ad049da623867ea8",
    "outs 7b22bee60c57e424",
    "params e42127e2d4284b4b",
    "place d75b472741066022",
    "reads ae65338702722651",
    "replies e8e8bcafdcd37cc1",
    "run a1f32c4ed8d16a8a",
    "stage adb45d62e69858c7",
    "total f578abe2a33d2ad4",
    "where 6d173ac62bad8798",
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
