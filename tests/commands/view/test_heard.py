"""What the lines of a run say of cells that no lock tells of."""

from dataclasses import replace

from pipeline.commands.view.heard import Heard
from tests.commands.view import looks

CELL, OTHER = "teach@c00000001", "train@c00000002"


def heard(*lines):
    found = Heard()
    for line in lines:
        found.line(line)
    return found


def states(found, *cells):
    return [(one.state, one.reason) for one in found.over(replace(looks.look(), cells=cells)).cells]


def test_cells_of_a_flow_run_side_by_side_until_each_says_how_it_ended():
    lines = [
        f"{CELL} | Running stage 'dag/a/seed-0/dvc.yaml:teach-c00000001':",
        f"{CELL} | > omniopd stage teach --cell c00000001",
        f"{OTHER} | Running stage 'dag/a/seed-0/dvc.yaml:train-c00000002':",
        f"{CELL} | launch: waits for its place: srun",
    ]
    found = heard(*lines)
    waiting = looks.told("teach", "waiting", 1), looks.told("train", "ready", 2)
    assert states(found, *waiting) == [
        ("running", "launch: waits for its place: srun"),
        ("running", ""),
    ]
    # what a lock or an out says is newer
    done = looks.told("teach", "done", 1), looks.told("train", "failed", 2, reason="found 1")
    assert states(found, *done) == [("done", ""), ("failed", "found 1")]
    found.line("cell 3 of 9: teach a round 1 seed 0 and 2 more (c00000001) 3.2 s")
    found.line(f"{OTHER} | error: found 2")
    found.line("cell 4 of 9: train a round 1 seed 0 (c00000002) failed")
    # what the first wrote may be on another machine
    assert states(found, *waiting) == [("done", ""), ("failed", "error: found 2")]
    found.line(lines[0])
    assert states(found, *waiting) == [("running", ""), ("failed", "error: found 2")]
    found.line("cell 3 of 9: teach a (c00000001) not run: a cell that it reads failed")
    assert states(found, *waiting) == [("waiting", ""), ("failed", "error: found 2")]


def test_of_dvc_a_stage_runs_until_it_says_that_of_the_next():
    begun = "Running stage 'dag/a/seed-0/dvc.yaml:teach-c00000001':"
    found = heard("stage 3 of 9", begun, "a word", "> omniopd stage teach")
    waiting = looks.told("teach", "ready", 1), looks.told("train", "ready", 2)
    assert states(found, *waiting) == [("running", "a word"), ("ready", "")]
    found.line("Running stage 'dag/a/seed-0/dvc.yaml:train-c00000002':")
    assert states(found, *waiting) == [("ready", ""), ("running", "")]
    found.line("Stage 'report' didn't change, skipping")
    assert states(found, *waiting) == [("ready", ""), ("ready", "")]


def test_the_complaint_is_the_last_that_cells_said_that_failed_or_still_ran():
    begun = f"{CELL} | Running stage 'x:teach-c00000001':"
    other = f"{OTHER} | Running stage 'x:train-c00000002':"
    found = heard(begun, other, *(f"{CELL} | line {n}" for n in range(20)), f"{OTHER} | step")
    assert f"{OTHER} | step" in found.complaint()
    found.line("cell 1 of 9: teach a (c00000001) failed")
    assert found.complaint() == [f"{CELL} | line {n}" for n in range(8, 20)]
