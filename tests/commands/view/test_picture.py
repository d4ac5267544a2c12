"""The picture of a look fits its terminal and says of each arm and round what became of it."""

import re
from dataclasses import replace

import pytest
from rich.cells import cell_len

from pipeline.commands.view import grid, picture, screen, time_left
from tests.commands.view import looks

STYLE = re.compile(r"\x1b\[[\d;]*m")


def drawn(look, width, height=40, plain=False, passed=None):
    """The lines that a terminal shows."""
    text = screen.rendered(
        picture.picture(look, picture.Sheet(width, height, plain), passed), width, height
    )
    return [line.rstrip() for line in STYLE.sub("", text).splitlines()]


def test_a_line_an_arm_has_the_counts_of_each_round():
    lines = drawn(looks.look(), 80)
    assert lines[1].split("  ") == [
        *("55 cells", "✓ 19 done", "↻ 5 cached", "▶ 1 running", "✗ 1 failed", "· 29 waiting")
    ]
    found = {line.split()[0]: line.split()[1:] for line in lines[3:8]}
    assert found["base"] == ["round", "1", "round", "2", "round", "3"] or found["base"] == ["✓1"]
    assert found["omniopd"] == ["✓6", "↻5", "▶1", "·6"]
    assert found["opd"] == ["✓6", "✗1", "·5", "·6"]


@pytest.mark.parametrize("rounds", [3, 30])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (40, 14)])
def test_it_is_no_wider_and_no_higher_than_its_place(width, height, plain, rounds):
    look = looks.look(rounds)
    many = {f"{arm}-{n}": own for n in range(20) for arm, own in look.rounds.items()}
    lines = drawn(replace(look, rounds=many), width, height, plain, 754.0)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= height
    assert all(line.isascii() for line in lines) or not plain
    assert any("run or failed" in line or "round 2" in line for line in lines)


def test_what_runs_is_told_with_its_steps_and_a_train_cell_with_how_it_goes():
    narrow, wide = drawn(looks.look(), 80), drawn(looks.look(), 200)
    said = "train 30 of 120  0.5/s  3:00 min left"
    assert f"▶ train round 2  omniopd seed 0  {said}" in narrow
    (bar,) = [line for line in wide if line.endswith(said)]
    assert bar.count("━") > 10
    assert "    after step 28: loss 1.25 █▄▁; means: weight 0.5, entropy 0.75" in narrow
    (failed,) = [line for line in narrow if "✗ teach round 2" in line]
    assert failed.endswith("…")


def test_the_foot_has_time_money_and_failures():
    foot = " ".join(drawn(looks.look(), 80, passed=754.0)[-2:])
    for part in ("12:34 min so far", "teachers $1.25", "2,310 requests", "12 draws failed"):
        assert part in foot


def test_time_left_is_the_mean_of_the_cells_of_a_kind_that_are_done():
    known = [looks.told("forks", "done", 1, seconds=2.0), looks.told("forks", "done", 2, seconds=4)]
    running = looks.told("forks", "running", 3, seconds=1.0, writer=looks.writer())
    slow = looks.writer(what="forks", done=1, total=11, per_second=0.5)

    def left(*cells):
        return time_left.left(replace(looks.look(), cells=[*known, *cells]))

    assert left() is None
    waiting = [looks.told("forks", "waiting", n) for n in (4, 5)]
    assert left(*waiting, looks.told("forks", "cached", 6)) == (6.0, 0)
    assert left(*waiting, running) == (8.0, 0)
    assert left(*waiting, running, replace(running, cell="forks@c7")) == (5.0, 0)  # two at a time
    assert left(replace(running, writer=slow)) == (20.0, 0)  # as its own bar has it
    assert left(looks.told("train", "waiting", 8), *waiting) == (6.0, 1)
    assert left(looks.told("train", "waiting", 8)) is None


def test_rounds_that_do_not_fit_are_put_together_but_for_those_at_work():
    found = grid.grid(looks.look(9), 4, 9)
    assert found.rounds == ["base", "round 1", "round 2", "round 3 to 9"] or found.rounds == [
        *("base to round 1", "round 2", "round 3", "round 4 to 9")
    ]
    assert sum(grid.total(found.arms["opd"]).values()) == 9 * 6
    assert grid.grid(looks.look(9), 1, 9).rounds == ["base to round 9"]
    assert [*grid.grid(looks.look(9), 10, 9).rounds] == [
        "base",
        *(f"round {n}" for n in range(1, 10)),
    ]


def test_arms_in_which_nothing_moves_are_left_out_first():
    found = grid.grid(looks.look(), 4, 2)
    assert list(found.arms) == ["omniopd", "opd"]
    assert found.more == 2
