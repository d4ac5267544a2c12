"""Code that is known to do what other code did: locks that differ in such lines alone are equal."""

import pytest

from pipeline.code_digest import equal, history, locks, variants
from pipeline.plan import expand, experiment
from tests.project import MINIATURE

OLD, NEW = sorted(equal.BEFORE)[0], sorted(equal.NOW)[0]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (f"a 1\n{OLD}\ncalls 1\n", f"a 1\n{NEW}\ncalls 2\n", True),
        (f"a 1\n{OLD}\ncalls 1\n", "a 1\ncalls 2\n", True),
        (f"a 1\n{OLD}\ncalls 1\n", f"a 2\n{NEW}\ncalls 2\n", False),
        (f"a 1\n{NEW}\ncalls 1\n", f"a 1\n{OLD}\ncalls 2\n", False),  # never back
        ("a 1\ncalls 1\n", "a 1\ncalls 2\n", False),
        ("a 1\n", "a 1\n", False),
        (f"a 1\n{OLD}\nlibrary torch 2.1\n", f"a 1\n{NEW}\nlibrary torch 2.2\n", False),
    ],
)
def test_only_what_is_listed_counts_as_equal(old, new, same):
    assert equal.same(old, new) is same


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A cell's entry of dvc.lock, and the lock of its code as it is now."""
    monkeypatch.chdir(tmp_path)
    wanted = expand.expand(experiment.load(MINIATURE))
    locks.write(variants.of_plan(wanted))
    return "score-edit", locks.read("score-edit")


def entry(variant, text):
    deps = [{"path": str(locks.path(variant)), "hash": "md5", "md5": history.md5(text), "size": 1}]
    return {"cmd": "c", "deps": [*deps, {"path": "data/x", "md5": "1"}], "outs": []}


def kept(text):
    history.KEPT.mkdir(exist_ok=True)
    (history.KEPT / f"{history.md5(text)}.lock").write_text(text)


def test_an_entry_of_code_that_did_the_same_gets_the_lock_that_is_here(locked):
    variant, here = locked
    now = next(line for line in sorted(equal.NOW) if f"\n{line}\n" in here)
    before = here.replace(f"\n{now}\n", f"\n{OLD}\n")
    kept(before)
    found = equal.accepted(entry(variant, before))
    assert found["deps"][0] == entry(variant, here)["deps"][0] | {"size": len(here)}
    assert found["deps"][1:] == entry(variant, before)["deps"][1:]
    other = before.replace("\nmain ", "\nmain x")
    kept(other)
    assert equal.accepted(entry(variant, other)) == entry(variant, other)
    unknown = entry(variant, "no one has it")
    assert equal.accepted(unknown) == unknown
    assert equal.accepted({"cmd": "c", "deps": [], "outs": []})["deps"] == []
