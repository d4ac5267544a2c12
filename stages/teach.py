"""teach: the teacher continues the student's text at every fork, N times.

reads   prompts, rollouts, forks; for full solutions (sft) the prompts alone; a judge the rollouts
        of two students
writes  answers  N rows per fork, or per prompt, cut to C student tokens; with adaptive N as many
        as pipeline/method/adaptive.py wants; of a judge per order of two answers (position)
source  arXiv 2606.01476. Answers come from the judgment store where it has them; only the rest
        is asked for. The cut makes the table independent of what the store held before.
"""

import argparse
import functools
import itertools
from collections.abc import Iterator

import pyarrow as pa
from tokenizers import Tokenizer
from tqdm import tqdm

from pipeline.config import params_file
from pipeline.config.method import Adaptive, Bought
from pipeline.data import schemas, tables
from pipeline.engines import checkpoints
from pipeline.judgments.schema import Judgment
from pipeline.judgments.spool import FOLDER
from pipeline.judgments.store import Store, url
from pipeline.method import adaptive
from pipeline.stage import cells
from pipeline.teachers import protocol
from pipeline.teachers.purchase import requests
from pipeline.teachers.purchase.buyer import Judging, Place
from pipeline.teachers.purchase.requests import Response
from pipeline.teachers.purchase.truncation import Cut, cut, lacking, prefix_of
from pipeline.teachers.teach_cell import TeachParams, judge, template_lead

# responses that are looked up and asked for together; a batch service takes hours for a block
BLOCK = {"live": 256, "batch": 4096}


def teach(
    judging: Judging,
    asked: Iterator[Response],
    p: TeachParams,
    student: Tokenizer,
    size: int,
    lead: str = "",
) -> Iterator[pa.Table]:
    """The answers, a block of `size` responses at a time. `lead`: see Prefix."""
    while block := list(itertools.islice(asked, size)):
        table = functools.partial(_table, block, p=p, teacher=judging.teacher, student=student)
        found = judging.judge(block)
        made = table(found, lead=lead)
        while more := _more(block, made, p.samples):
            found |= judging.judge(block, more)
            made = table(found, lead=lead)
        yield made


def _more(
    block: list[Response], made: pa.Table, samples: int | Adaptive
) -> dict[tuple[int, int], int]:
    """The next sample of each place of a block that wants one; none where N is a number."""
    if not isinstance(samples, Adaptive):
        return {}
    said: dict[tuple[str, int], list[adaptive.Said]] = {}
    names = ("rollout_id", "position", "text", "ended")
    for name, position, text, ended in zip(*(made[x].to_pylist() for x in names), strict=True):
        said.setdefault((name, position), []).append((text.lstrip(), ended))
    return {
        (r, position): len(own)
        for r, response in enumerate(block)
        for position in response.prompts
        if adaptive.wanted(samples, own := said[response.id, position]) > len(own)
    }


def _asked(
    teacher: protocol.Teacher, args: argparse.Namespace, p: TeachParams
) -> Iterator[Response]:
    if p.pairs is not None:
        return requests.pairs(teacher, args.prompts, args.rollouts, args.beside, p.pairs)
    if args.forks is None:
        slice_ = (args.prompts, p.round, p.prompts_per_round)
        return requests.solutions(teacher, *slice_, args.tokenizer.parent)
    others = requests.Others(p.seed, p.prompts_per_round) if p.problem == "another" else None
    return requests.forks(teacher, args.prompts, args.rollouts, args.forks, others)


def _table(
    block: list[Response],
    found: dict[Place, Judgment],
    p: TeachParams,
    teacher: protocol.Teacher,
    student: Tokenizer,
    lead: str,
) -> pa.Table:
    rows = []
    for (r, position, sample), judgment in sorted(found.items()):
        prefix = prefix_of(block[r], position, lead)
        said = teacher.said(block[r].prompts[position], prefix.text, judgment)
        if p.pairs is None:
            answer = cut(judgment, said, prefix, teacher.same_tokens, student, p.chunk_tokens)
        else:  # the student's tokenizer may not know a judge's words
            answer = Cut(said.text, said.ended, judgment.completion_tokens, [])
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
                "token_ids": answer.token_ids,
            }
        )
    return pa.Table.from_pylist(rows, schema=schemas.ANSWERS)


def alone(judging: Judging, p: TeachParams) -> dict[str, float | int | str]:
    """Counts of what the cell would have bought from an empty store; dollars with a price alone.

    At the price of the day: it is no part of the cell, so that a new one reruns nothing.
    """
    ledger = judging.ledger
    read, written = ledger.prompt_tokens_alone, ledger.tokens_alone
    found: dict[str, float | int | str] = {"prompt_tokens_alone": read, "tokens_alone": written}
    if p.kind != "local":
        from pipeline.teachers.hosted import Hosted

        assert isinstance(judging.teacher, Hosted)
        if judging.teacher.config.price is not None:
            found["usd_alone"] = round(judging.teacher.price(read, written), 6)
    return found


def systems(judging: Judging) -> dict[str, int | str]:
    """Which systems served what was bought now, where the provider tells."""
    names = sorted(judging.ledger.fingerprints)
    return (
        {"fingerprints": len(names), "system_fingerprints": ", ".join(names[:5])} if names else {}
    )


def cached(judging: Judging, p: TeachParams) -> dict[str, int]:
    """Counts of engine vllm's prefix cache, if this run asked it anything."""
    if p.kind != "local":
        return {}
    from pipeline.teachers.providers import local

    assert isinstance(judging.teacher, local.LocalTeacher)
    return judging.teacher.counts


@cells.entry
def main() -> None:
    students = ("rollouts?", "beside?", "forks?")
    args = cells.arguments("teach", "prompts", *students, "tokenizer", "teacher?")
    p = cells.params("teach", args.cell, TeachParams)
    with (
        cells.running("teach", args) as run,
        Store(url(), cells.project(), FOLDER, reached=True) as store,
    ):
        student = checkpoints.tokenizer(args.tokenizer)
        judging, used, read = judge(args, p, store), 0, 0
        judging.fits(_asked(judging.teacher, args, p))  # all of them, before any is paid for
        asked = _asked(judging.teacher, args, p)
        with tables.writer(args.out / "answers.parquet", schemas.ANSWERS) as out:
            progress = tqdm(desc="teach", unit="answer", disable=None)
            size = BLOCK[params_file.free("teach", Bought).transport]
            lead = template_lead(judging.teacher, args.tokenizer.parent)
            judging.lacking = lacking(judging.teacher, student, p.chunk_tokens, lead)
            for table in teach(judging, asked, p, student, size, lead):
                out.write_table(table, row_group_size=tables.ROWS_PER_GROUP)
                used += sum(table["completion_tokens"].to_pylist())
                read += sum(table["prompt_tokens"].to_pylist())
                progress.update(table.num_rows)
        ledger = judging.ledger
        failed = ledger.failures.total()
        run.rows_in = run.rows_out = ledger.answers
        run.counts |= {
            "answers": ledger.answers,
            "store_hits": ledger.draws - ledger.bought,
            "bought": ledger.bought,
            "requests": ledger.requests,
            "failed": failed,
            "continuation_failure_rate": round(failed / max(ledger.draws, 1), 6),
            "tokens_used": used,
            "prompt_tokens_used": read,
            "tokens_bought": ledger.tokens_bought,
            "tokens_billed": ledger.tokens_billed,
            "usd": round(ledger.usd, 6),
        }
        run.counts |= alone(judging, p) | cached(judging, p) | systems(judging)
        run.counts |= {f"failed/{reason}": n for reason, n in sorted(ledger.failures.items())}


if __name__ == "__main__":
    main()
