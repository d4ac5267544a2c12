"""forks: pick the positions where the student was least sure.

reads   rollouts, the student's tokenizer; for embedding-variance the round's checkpoint
writes  forks  at most max_forks rows per rollout, by position; none for a shorter response
source  arXiv 2606.01476, peak-entropy scheduler; the others are in pipeline/method/schedulers/
"""

import argparse
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from tqdm import tqdm

from pipeline.config import params, params_file
from pipeline.config.method import Forks
from pipeline.core import seeds
from pipeline.data import schemas, tables
from pipeline.data.text import characters, decode, starts
from pipeline.engines import checkpoints
from pipeline.method import schedulers
from pipeline.method.schedulers import Response
from pipeline.stage import cells

if TYPE_CHECKING:
    from pipeline.engines.hf import Policy

BLOCK = 128  # responses that are looked at, continued and embedded together
READ = ["rollout_id", "prompt_token_ids", "token_ids", "entropies", "text", "finish_reason"]
Row = dict[str, Any]


class ForksParams(Forks):
    continuations: int = 4  # of embedding-variance alone
    seed: int
    round: params.Count


def forks(
    rollouts: pa.Table, tokenizer: Tokenizer, p: ForksParams, student: "Policy | None" = None
) -> pa.Table:
    """The forks of some rollouts, in their order."""
    rows = rollouts.to_pylist()
    starts = _positions(rows, [_response(row, tokenizer, p) for row in rows], p, student)
    fork_rows = [
        fork
        for row, positions in zip(rows, starts, strict=True)
        for fork in _forks(row, positions, tokenizer, p)
    ]
    return pa.Table.from_pylist(fork_rows, schema=schemas.FORKS)


def _prefix(tokenizer: Tokenizer, rollout: Row, end: int) -> str:
    return decode(tokenizer, _ids(rollout, end))


def _ids(rollout: Row, end: int) -> list[int]:
    ids: list[int] = rollout["token_ids"][:end]
    if rollout["finish_reason"] == "stop" and end == len(rollout["token_ids"]):
        return ids[:-1]  # the end of a turn is no text, also where it is no special token
    return ids


def _chunk(tokenizer: Tokenizer, rollout: Row, start: int, end: int) -> str:
    """Text of the chunk, of whole characters: cut as an answer is (stages/teach.py)."""
    ids, own = _ids(rollout, end), functools.partial(decode, tokenizer)
    _, text = characters(own, ids[:start], ids[start:])
    return text


def _response(rollout: Row, tokenizer: Tokenizer, p: ForksParams) -> Response:
    def eligible(start: int) -> bool:
        return starts(rollout["text"], _prefix(tokenizer, rollout, start))

    draw = seeds.generator(p.seed, "forks", p.round, rollout["rollout_id"])
    entropies_T = np.asarray(rollout["entropies"], np.float32)
    return Response(entropies_T, p.max_forks, p.chunk_tokens, eligible, draw)


def _positions(
    rows: list[Row], responses: list[Response], p: ForksParams, student: "Policy | None"
) -> list[list[int]]:
    if student is None:
        scheduler = schedulers.load(p.scheduler)
        return [scheduler(response) for response in responses]
    from pipeline.method.schedulers import embedding_variance
    from pipeline.method.similarity.embedding import embed

    continued = functools.partial(_continued, student, p, rows)
    return embedding_variance.positions(responses, continued, embed)


def _continued(
    student: "Policy", p: ForksParams, rows: list[Row], starts: list[list[int]]
) -> list[list[list[str]]]:
    """Texts of the student's continuations of each start of each response, a chunk long."""
    from pipeline.engines.asks import Ask, Draw
    from pipeline.engines.prefix_sharing import branches

    def ask(row: Row, positions: Sequence[int]) -> Ask:
        context, ids, name = row["prompt_token_ids"], row["token_ids"], row["rollout_id"]
        draws = [
            Draw(t, sample, seeds.number(p.seed, "forks", p.round, name, t, sample))
            for t in positions
            for sample in range(p.continuations)
        ]
        return Ask({t: (*context, *ids[:t]) for t in positions}, draws)

    asks = [ask(row, places) for row, places in zip(rows, starts, strict=True) if places]
    size = params_file.runtime().batch_tokens
    drawn = branches(student, asks, 1.0, p.chunk_tokens, size)
    return [_texts(student, next(drawn), p.continuations) if places else [] for places in starts]


def _texts(student: "Policy", drawn: Sequence[Any], samples: int) -> list[list[str]]:
    texts = [student.decode(one.token_ids).lstrip() for one in drawn]
    return [texts[i : i + samples] for i in range(0, len(texts), samples)]


def _forks(
    rollout: Row, positions: list[int], tokenizer: Tokenizer, p: ForksParams
) -> Iterator[Row]:
    for fork, position in enumerate(positions):
        end = position + p.chunk_tokens
        yield {
            "rollout_id": rollout["rollout_id"],
            "fork": fork,
            "position": position,
            "length": p.chunk_tokens,
            "entropy": rollout["entropies"][position],
            "prefix_text": _prefix(tokenizer, rollout, position),
            "chunk_text": _chunk(tokenizer, rollout, position, end),
            "ended": end == len(rollout["token_ids"]) and rollout["finish_reason"] == "stop",
        }


def _student(args: argparse.Namespace) -> "Policy | None":
    """The round's checkpoint, where the scheduler asks it."""
    if args.policy is None:
        return None
    from pipeline.engines.torch_setup import start

    runtime = params_file.runtime()
    start(runtime)
    from pipeline.engines.hf import load

    return load(args.policy / "checkpoint", runtime.device)


@cells.entry
def main() -> None:
    args = cells.arguments("forks", "rollouts", "tokenizer", "policy?")
    p = cells.params("forks", args.cell, ForksParams)
    with cells.running("forks", args) as run:
        tokenizer, student = checkpoints.tokenizer(args.tokenizer), _student(args)
        run.rows_in = tables.rows(args.rollouts, schemas.ROLLOUTS)
        with (
            tqdm(total=run.rows_in, desc="forks", disable=None) as progress,
            tables.growing(args.out / "forks.parquet", schemas.FORKS) as add,
        ):
            for rollouts in tables.stream(args.rollouts, schemas.ROLLOUTS, READ, BLOCK):
                forks_table = forks(rollouts, tokenizer, p, student)
                add(forks_table)
                progress.update(rollouts.num_rows)
                run.rows_out += len(forks_table)


if __name__ == "__main__":
    main()
