"""The forks of some rollouts: where a scheduler puts them, and the text of their chunks."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from pipeline.config import params
from pipeline.config.method import Placed
from pipeline.core import seeds
from pipeline.data import schemas
from pipeline.data.text import characters, decode, starts
from pipeline.method import schedulers
from pipeline.method.schedulers import Response

Row = dict[str, Any]
# rollouts, starts of each: texts of the student's continuations of each start, a chunk long
Continue = Callable[[list[Row], list[list[int]]], list[list[list[str]]]]


# of the rollouts table, what forks are made of
READ = ["rollout_id", "prompt_id", "prompt_token_ids", "token_ids", "entropies", "text"]
READ += ["finish_reason"]


class ForksParams(Placed):
    """The params of a cell of stage forks whose scheduler asks no student."""

    seed: int
    round: params.Count
    gate: params.Share | None = None  # share of whole solutions that has to be right


def forks(
    rollouts: pa.Table,
    tokenizer: Tokenizer,
    p: Placed,
    seed: int,
    round_: int,
    continued: Continue | None = None,
) -> pa.Table:
    """The forks of some rollouts, in their order.

    What a scheduler draws belongs to `seed`, `round_` and the rollout's id. With `continued` it is
    embedding-variance, which asks the student.
    """
    rows = rollouts.to_pylist()
    responses = [_response(row, tokenizer, p, seed, round_) for row in rows]
    fork_rows = [
        fork
        for row, own in zip(rows, _positions(rows, responses, p, continued), strict=True)
        for fork in _forks(row, own, tokenizer, p.chunk_tokens)
    ]
    return pa.Table.from_pylist(fork_rows, schema=schemas.FORKS)


def _response(rollout: Row, tokenizer: Tokenizer, p: Placed, seed: int, round_: int) -> Response:
    def eligible(start: int) -> bool:
        return starts(rollout["text"], _prefix(tokenizer, rollout, start))

    draw = seeds.generator(seed, "forks", round_, rollout["rollout_id"])
    entropies_T = np.asarray(rollout["entropies"], np.float32)
    return Response(entropies_T, p.max_forks, p.chunk_tokens, eligible, draw)


def _positions(
    rows: list[Row], responses: list[Response], p: Placed, continued: Continue | None
) -> list[list[int]]:
    if continued is None:
        scheduler = schedulers.load(p.scheduler)
        return [scheduler(response) for response in responses]
    from pipeline.method.schedulers import embedding_variance
    from pipeline.method.similarity.embedding import embed

    return embedding_variance.positions(responses, functools.partial(continued, rows), embed)


def _forks(
    rollout: Row, positions: list[int], tokenizer: Tokenizer, chunk_tokens: int
) -> Iterator[Row]:
    for fork, position in enumerate(positions):
        end = min(position + chunk_tokens, len(rollout["token_ids"]))  # before it of `whole` alone
        yield {
            "rollout_id": rollout["rollout_id"],
            "fork": fork,
            "position": position,
            "length": end - position,
            "entropy": rollout["entropies"][position],
            "prefix_text": _prefix(tokenizer, rollout, position),
            "chunk_text": _chunk(tokenizer, rollout, position, end),
            "ended": end == len(rollout["token_ids"]) and rollout["finish_reason"] == "stop",
        }


def _prefix(tokenizer: Tokenizer, rollout: Row, end: int) -> str:
    return decode(tokenizer, _ids(rollout, end))


def _chunk(tokenizer: Tokenizer, rollout: Row, start: int, end: int) -> str:
    """Text of the chunk, of whole characters: cut as an answer is (stages/teach.py)."""
    ids, own = _ids(rollout, end), functools.partial(decode, tokenizer)
    _, text = characters(own, ids[:start], ids[start:])
    return text


def _ids(rollout: Row, end: int) -> list[int]:
    ids: list[int] = rollout["token_ids"][:end]
    if rollout["finish_reason"] == "stop" and end == len(rollout["token_ids"]):
        return ids[:-1]  # the end of a turn is no text, also where it is no special token
    return ids
