"""prepare: draw the problems of every split, all different, from the pool's own seed.

reads   nothing, or rows of problems where params name a file or hub
writes  prompts  one row per problem; round r trains on the r-th slice of split train
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Generator, Iterator
from typing import Any

from tqdm import tqdm

from pipeline import tasks
from pipeline.config import params
from pipeline.config.problems import Prepare, TaskPrepare
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.stage import cells
from pipeline.tasks import contamination

PATIENCE = 100_000  # repeats in a row after which a generator counts as exhausted


class PrepareParams(params.Params):
    prepare: Prepare


def prepare(p: TaskPrepare, counts: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Distinct problems: test first, then dev, then train, so that a larger pool keeps them.

    `counts` gets how many were left out as repeats and leaks, and how many test problems the
    instruction shows.
    """
    counts = {} if counts is None else counts
    splits = [("test", p.test), ("dev", p.dev), ("train", p.train)]
    task, shown = tasks.load(p), contamination.key(getattr(p, "instruction", ""))
    prove = getattr(task, "prove", None)  # a task may say what problem it cannot grade
    with contextlib.closing(_different(task.problems(p.seed), counts)) as stream:
        for split, count in splits:
            for index in tqdm(range(count), desc=f"prepare {split}", disable=None):
                problem = next(stream)
                if prove is not None:
                    prove(problem)
                if split == "test" and contamination.shown_in(problem.prompt, shown):
                    _tell_shown(problem, counts)
                yield {
                    "prompt_id": f"{split}-{index:06d}",
                    "task": problem.task,
                    "split": split,
                    "messages": json.dumps(problem.messages),
                    "prompt": problem.prompt,
                    "answer": problem.answer,
                }
    counts |= getattr(task, "dropped", {})  # of rows, which come all different


def _tell_shown(problem: tasks.Problem, counts: dict[str, Any]) -> None:
    counts["test_in_instruction"] = counts.get("test_in_instruction", 0) + 1
    cells.log.warning(
        f"prepare.instruction: it shows the test problem {problem.prompt[:60]!r}, so every prompt "
        "of every split does. Take it out, or test on other problems."
    )


def _different(stream: Iterator[tasks.Problem], counts: dict[str, Any]) -> Generator[tasks.Problem]:
    """The problems that did not come before; what came is looked up on disk.

    Texts are compared exactly: rows come here as contamination.py tells them apart, and one
    generator writes one problem in one way, but also mazes whose walls are punctuation.
    """
    found, repeats = 0, 0
    with contextlib.closing(sqlite3.connect("")) as seen:  # a file that SQLite removes by itself
        seen.execute("create table seen (digest blob primary key) without rowid")
        for problem in stream:
            digest = hashlib.blake2b(problem.prompt.encode(), digest_size=16).digest()
            new = seen.execute("insert or ignore into seen values (?)", (digest,)).rowcount
            if new:
                found, repeats = found + 1, 0
                yield problem
                continue
            repeats += 1
            counts["repeats"] = counts.get("repeats", 0) + 1
            if repeats == PATIENCE:
                raise UserError(
                    f"prepare: {PATIENCE} problems in a row were repeats after {found} different "
                    "ones. Ask for fewer problems, or make them larger."
                )


@cells.entry
def main() -> None:
    args = cells.arguments("prepare")
    p = cells.params("prepare", args.cell, PrepareParams)
    with (
        cells.running("prepare", args) as run,
        tables.growing(args.out / "prompts.parquet", schemas.PROMPTS) as add,
    ):
        for table in tables.parts(prepare(p.prepare, run.counts), schemas.PROMPTS):
            add(table)
            run.rows_out += table.num_rows


if __name__ == "__main__":
    main()
