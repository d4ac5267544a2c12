"""teach: the teacher continues the student's text at every fork, N times.

reads   prompts, rollouts, forks; for full solutions (sft) the prompts alone
writes  answers  N rows per fork, or per prompt, cut to C student tokens
source  arXiv 2606.01476. Answers come from the judgment store where it has them; only the rest
        is asked for. The cut makes the table independent of what the store held before.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from tokenizers import Tokenizer
from tqdm import tqdm

from pipeline import asking, cells, checkpoints, judgments, params, prompts, tables, teachers
from pipeline.asking import Ledger, Response, Wanted
from pipeline.errors import UserError

BLOCK = 256  # responses that are looked up and asked for together


class TeachParams(params.Params):
    teacher: str
    kind: str
    samples: params.Count  # N
    temperature: params.Positive
    continuation: str
    max_attempts: params.Count
    max_failure_rate: params.Share
    epoch: int
    chunk_tokens: params.Count  # C, or the longest solution
    round: params.Count
    prompts_per_round: params.Count  # full solutions: which slice of the pool


class Cut(NamedTuple):
    text: str
    ended: bool
    tokens: int  # student tokens of the cut text, EOS included


def cut(judgment: judgments.Judgment, same_tokens: bool, student: Tokenizer, limit: int) -> Cut:
    """The answer's first `limit` student tokens. An end within them counts as one token.

    Raises UserError if the answer stops short of that because of its own token limit.
    """
    ids = list(judgment.token_ids or ())
    if not (same_tokens and ids):
        ids = student.encode(judgment.text, add_special_tokens=False).ids
        if len(ids) < limit and not judgment.ended:
            raise UserError(
                f"teach: an answer of {judgment.token_limit} teacher tokens is only {len(ids)} "
                f"student tokens long, wanted {limit}. Use a shorter forks.chunk_tokens."
            )
        ids += [-1] if judgment.ended else []  # stands for the end
    kept = [token for token in ids[:limit] if token >= 0]
    ended = judgment.ended and len(ids) <= limit
    text = student.decode(kept, skip_special_tokens=True)
    return Cut(text, ended, min(len(ids), limit))


def responses(
    p: TeachParams, args: argparse.Namespace, teacher: teachers.Teacher
) -> Iterator[Response]:
    """What is asked about, in the order of the rollouts; or of the prompts."""
    if args.forks is None:
        first = (p.round - 1) * p.prompts_per_round
        for problem in prompts.read(args.prompts, "train", first, p.prompts_per_round):
            yield Response(problem.prompt_id, {0: teacher.prefix(problem.messages, [], "")})
        return
    messages = _messages(args.prompts)
    forks = itertools.groupby(_rows(args.forks, tables.FORKS), key=lambda row: row["rollout_id"])
    pending = next(forks, None)
    for row in _rows(args.rollouts, tables.ROLLOUTS, "rollout_id", "prompt_id", "token_ids"):
        if pending is None or pending[0] != row["rollout_id"]:
            continue  # no fork fits into this response
        yield Response(
            row["rollout_id"],
            {
                fork["position"]: teacher.prefix(
                    messages[row["prompt_id"]],
                    row["token_ids"][: fork["position"]],
                    fork["prefix_text"],
                )
                for fork in pending[1]
            },
        )
        pending = next(forks, None)
    if pending is not None:
        raise UserError(
            f"{args.forks}: {pending[0]} is not among the rollouts, or not in their order. "
            "Rerun forks on these rollouts."
        )


def _rows(path: Path, schema: pa.Schema, *columns: str) -> Iterator[dict[str, Any]]:
    for group in tables.stream(path, schema):
        yield from (group.select(columns) if columns else group).to_pylist()


def _messages(path: Path) -> dict[str, list[dict[str, str]]]:
    table = tables.read(path, tables.PROMPTS, ["prompt_id", "messages"])
    return {row["prompt_id"]: json.loads(row["messages"]) for row in table.to_pylist()}


def teach(
    store: judgments.Store,
    teacher: teachers.Teacher,
    asked: Iterator[Response],
    p: TeachParams,
    student: Tokenizer,
    ledger: Ledger,
) -> Iterator[pa.Table]:
    """The answers, a block of responses at a time."""
    replay = bool(cells.untracked("teach").get("replay", False))
    limit = teacher.limit(p.chunk_tokens)
    wanted = Wanted(p.samples, limit, p.continuation, p.epoch, p.max_attempts, replay)
    while block := list(itertools.islice(asked, BLOCK)):
        found = asking.judge(store, teacher, block, wanted, ledger)
        if ledger.failed > p.max_failure_rate * ledger.draws:
            raise UserError(
                f"teach: {ledger.failed} of {ledger.draws} draws failed ({ledger.reasons}), more "
                f"than teach.max_failure_rate = {p.max_failure_rate}; the last response asked "
                f"about is {block[-1].id}. Check the teacher, or allow more failures."
            )
        yield _table(block, found, p, teacher.same_tokens, student)


def _table(
    block: list[Response],
    found: dict[asking.Place, judgments.Judgment],
    p: TeachParams,
    same_tokens: bool,
    student: Tokenizer,
) -> pa.Table:
    rows = []
    for (r, position, sample), judgment in sorted(found.items()):
        answer = cut(judgment, same_tokens, student, p.chunk_tokens)
        rows.append(
            {
                "rollout_id": block[r].id,
                "position": position,
                "sample": sample,
                "teacher": p.teacher,
                "text": answer.text,
                "ended": answer.ended,
                "finish_reason": "stop" if answer.ended else "length",
                "model_returned": judgment.model_returned,
                "prompt_tokens": judgment.prompt_tokens,
                "completion_tokens": answer.tokens,
                "request_key": judgment.key,
            }
        )
    return pa.Table.from_pylist(rows, schema=tables.ANSWERS)


@cells.entry
def main() -> None:
    args = cells.arguments("teach", "prompts", "rollouts?", "forks?", "tokenizer", "teacher")
    p = cells.params("teach", args.cell, TeachParams)
    with cells.running("teach", args) as run, judgments.Store(judgments.url()) as store:
        student = checkpoints.tokenizer(args.tokenizer)
        teacher = teachers.load(
            p.kind, args.teacher, args.tokenizer, p.temperature, cells.runtime()
        )
        ledger, used = Ledger(), 0
        asked = responses(p, args, teacher)
        with tables.writer(args.out / "answers.parquet", tables.ANSWERS) as out:
            progress = tqdm(desc="teach", unit="answer", disable=None)
            for table in teach(store, teacher, asked, p, student, ledger):
                out.write_table(table, row_group_size=tables.ROWS_PER_GROUP)
                used += sum(table["completion_tokens"].to_pylist())
                progress.update(table.num_rows)
        run.rows_in = run.rows_out = ledger.answers
        run.counts |= {
            "answers": ledger.answers,
            "store_hits": ledger.answers + ledger.failed - ledger.bought,
            "bought": ledger.bought,
            "failed": ledger.failed,
            "tokens_used": used,
            "tokens_bought": ledger.tokens_bought,
            "usd": 0.0,
        }


if __name__ == "__main__":
    main()
