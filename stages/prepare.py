"""prepare: draw the problems of every split, all different, from the pool's own seed.

reads   nothing, or rows of problems where params name a file or hub
writes  prompts  one row per problem; round r trains on the r-th slice of split train
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from pipeline import cells, params, tables, tasks
from pipeline.errors import UserError

PATIENCE = 100_000  # repeats in a row after which a generator counts as exhausted


class PrepareParams(params.Params):
    prepare: params.Prepare


def prepare(p: params.TaskPrepare) -> Iterator[dict[str, Any]]:
    """Distinct problems: test first, then dev, then train, so that a larger pool keeps them.

    That they are distinct takes some 100 bytes of memory for each.
    """
    task = tasks.load(p)
    splits = [("test", p.test), ("dev", p.dev), ("train", p.train)]
    stream, seen = task.problems(p.seed), set[bytes]()
    for split, count in splits:
        for index in tqdm(range(count), desc=f"prepare {split}", disable=None):
            problem = _unseen(stream, seen)
            yield {
                "prompt_id": f"{split}-{index:06d}",
                "task": problem.task,
                "split": split,
                "messages": json.dumps(problem.messages),
                "prompt": problem.prompt,
                "answer": problem.answer,
            }


def _unseen(stream: Iterator[tasks.Problem], seen: set[bytes]) -> tasks.Problem:
    for _ in range(PATIENCE):
        problem = next(stream)
        digest = hashlib.blake2b(problem.prompt.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            return problem
    raise UserError(
        f"prepare: {PATIENCE} problems in a row were repeats after {len(seen)} different ones. "
        "Ask for fewer problems, or make them larger."
    )


@cells.entry
def main() -> None:
    args = cells.arguments("prepare")
    p = cells.params("prepare", args.cell, PrepareParams)
    with (
        cells.running("prepare", args) as run,
        tables.growing(args.out / "prompts.parquet", tables.PROMPTS) as add,
    ):
        for table in tables.parts(prepare(p.prepare), tables.PROMPTS):
            add(table)
            run.rows_out += table.num_rows


if __name__ == "__main__":
    main()
