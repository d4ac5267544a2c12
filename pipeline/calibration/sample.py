"""The responses that are calibrated on: some of a round's, whole, with forks and answers."""

import heapq
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from pipeline.calibration import Text
from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.data.text import chunk, decode, whole

TOGETHER = 2  # responses to one prompt that are taken at a time, so that they can be compared
PART = 64  # rows that are looked at together
OF_ROLLOUTS = ["rollout_id", "prompt_id", "token_ids", "logprobs", "entropies", "text"]
OF_ROLLOUTS += ["finish_reason", "reward"]
OF_ANSWERS = ["rollout_id", "position", "sample", "text", "ended", "token_ids"]


@dataclass(frozen=True)
class Fork:
    position: int
    entropy: float  # nats
    chunk: Text
    answers: tuple[Text, ...]  # the teacher's N
    siblings: tuple[Text, ...]  # chunks of the prompt's other samples in the same state


@dataclass(frozen=True)
class Response:
    id: str
    problem: str
    token_ids: list[int]
    logprobs: np.ndarray  # nats
    entropies: np.ndarray  # nats
    text: str
    reward: float | None
    forks: tuple[Fork, ...]


class Counted(NamedTuple):
    problem: str
    id: str
    forks: int


def choose(rollouts: Path, forks: Path, most: int, *names: str | int) -> dict[str, str]:
    """Ids of seeded responses that together have at most `most` forks, each with its problem.

    Prompts come in random order, two responses of each; the next two only when every prompt gave
    its first. Streamed: what is held never exceeds `most` responses.
    """
    kept: list[tuple[int, int, int, Counted]] = []  # a heap, the last in line first
    total = 0
    for problem, own in itertools.groupby(_counted(rollouts, forks), lambda c: c.problem):
        place = seeds.number(*names, problem)
        for turn, (number, response) in enumerate(
            sorted((seeds.number(*names, c.id), c) for c in own)
        ):
            heapq.heappush(kept, (-(turn // TOGETHER), -place, -number, response))
            total += response.forks
            while total - kept[0][-1].forks >= most:
                total -= heapq.heappop(kept)[-1].forks
    chosen: dict[str, str] = {}
    total = 0
    for *_, response in sorted(kept, reverse=True):
        if chosen and total + response.forks > most:
            break
        chosen[response.id], total = response.problem, total + response.forks
    return chosen


def _counted(rollouts: Path, forks: Path) -> Iterator[Counted]:
    """Responses with forks, in the order of the rollouts."""
    places = (
        name
        for group in tables.stream(forks, schemas.FORKS, ["rollout_id"])
        for name in group["rollout_id"].to_pylist()
    )
    counts = itertools.groupby(places)
    pending = next(counts, None)
    for group in tables.stream(rollouts, schemas.ROLLOUTS, ["rollout_id", "prompt_id"]):
        for row in group.to_pylist():
            if pending is not None and pending[0] == row["rollout_id"]:
                yield Counted(row["prompt_id"], row["rollout_id"], sum(1 for _ in pending[1]))
                pending = next(counts, None)
    if pending is not None:
        raise UserError(
            f"{forks}: {pending[0]} is not among the rollouts, or not in their order. "
            "Rerun forks on these rollouts."
        )


def read(
    paths: tuple[Path, Path, Path], chosen: dict[str, str], samples: int, tokenizer: Tokenizer
) -> list[Response]:
    """The chosen responses from rollouts, forks and answers, in the order of the rollouts.

    Raises UserError unless every fork has `samples` answers.
    """
    rollouts, forks, answers = paths
    written: dict[str, list[dict[str, Any]]] = {}
    for row in _only(rollouts, schemas.ROLLOUTS, "prompt_id", set(chosen.values()), OF_ROLLOUTS):
        arrays = {name: np.asarray(row[name], np.float32) for name in ("logprobs", "entropies")}
        written.setdefault(row["prompt_id"], []).append(row | arrays)
    audited: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for row in _only(forks, schemas.FORKS, "rollout_id", set(chosen), schemas.FORKS.names):
        audited[row["rollout_id"]].append(row)
    said: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in _only(answers, schemas.ANSWERS, "rollout_id", set(chosen), OF_ANSWERS):
        if row["sample"] < samples:  # beyond these not every fork has one
            said.setdefault((row["rollout_id"], row["position"]), []).append(row)
    return [
        Response(
            id=row["rollout_id"],
            problem=row["prompt_id"],
            token_ids=row["token_ids"],
            logprobs=row["logprobs"],
            entropies=row["entropies"],
            text=row["text"],
            reward=row["reward"],
            forks=tuple(
                Fork(
                    position=fork["position"],
                    entropy=fork["entropy"],
                    chunk=Text(
                        fork["chunk_text"], fork["ended"], tuple(chunk(tokenizer, row, fork))
                    ),
                    answers=_answers(said, fork, samples),
                    siblings=tuple(_siblings(row, own, fork, tokenizer)),
                )
                for fork in audited[row["rollout_id"]]
            ),
        )
        for own in written.values()
        for row in own
        if row["rollout_id"] in chosen
    ]


def _only(
    path: Path, schema: pa.Schema, name: str, wanted: Collection[str], columns: list[str]
) -> Iterator[dict[str, Any]]:
    """The rows whose column `name` is wanted; a few rows stand as lists."""
    values = pa.array(sorted(wanted), pa.string())
    for part in tables.stream(path, schema, columns, PART):
        yield from part.filter(pc.is_in(part[name], values)).to_pylist()


def _answers(
    said: dict[tuple[str, int], list[dict[str, Any]]], fork: dict[str, Any], samples: int
) -> tuple[Text, ...]:
    place = (fork["rollout_id"], fork["position"])
    rows = sorted(said.get(place, []), key=lambda row: row["sample"])
    if [row["sample"] for row in rows] != list(range(samples)):
        raise UserError(
            f"answers: fork {place} has {len(rows)} continuations, wanted samples 0 to "
            f"{samples - 1} once each. Rerun teach."
        )
    return tuple(Text(row["text"], row["ended"], tuple(row["token_ids"])) for row in rows)


def _siblings(
    row: dict[str, Any], written: list[dict[str, Any]], fork: dict[str, Any], tokenizer: Tokenizer
) -> Iterator[Text]:
    """Yield what the prompt's other samples wrote next, where they began with the same tokens."""
    start, end = fork["position"], fork["position"] + fork["length"]
    for other in written:
        ids = other["token_ids"]
        same = other is not row and len(ids) > start and ids[:start] == row["token_ids"][:start]
        ended = other["finish_reason"] == "stop" and end >= len(ids)
        if same and (ended or end <= len(ids)):
            kept = ids[: min(end, len(ids) - ended)]  # the end of a turn is no text
            following = decode(tokenizer, kept)[len(fork["prefix_text"]) :]
            yield Text(whole(following), ended, tuple(chunk(tokenizer, other, fork)))
