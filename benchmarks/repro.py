"""The default experiment from nothing, beside the project at an old commit.

repro_against_a5430f8  `omniopd repro --parallel 2`, which `make repro` runs after installation;
                       peer: `omniopd repro` of a5430f8, as its `make repro` did
repro_plain            `omniopd repro`, that is plain `dvc repro`; peer: the same

Seconds, once each, in clones of their own with empty caches and stores, one after another; all
have a5430f8's experiment (params.yaml has other names of keys since, and no other value of them).
"""

from pathlib import Path

from benchmarks.before import COMMIT
from benchmarks.clones import Clone
from benchmarks.measure import Row, row, seconds


def rows(scratch: Path) -> list[Row]:
    taken = {}
    for name, which, words in (
        ("two", "now", ["--parallel", "2"]),
        ("old", "before", []),
        ("plain", "now", []),
    ):
        (scratch / name).mkdir()
        clone = Clone(scratch / name, which)
        taken[name] = seconds(lambda: clone.run("omniopd", "repro", *words))  # noqa: B023
    peer = [taken["old"]]
    return [
        row(f"repro_against_{COMMIT}", "s", "lower", COMMIT, [taken["two"]], peer),
        row("repro_plain", "s", "lower", COMMIT, [taken["plain"]], peer),
    ]
