"""Student responses and prefixes, as a teacher is asked about them."""

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.core import seeds
from pipeline.core.disk_rows import Spool, decode, encode
from pipeline.core.errors import UserError
from pipeline.data import prompts, schemas, tables
from pipeline.data.text import WINDOW
from pipeline.judgments.keys import Prompt
from pipeline.method import judging
from pipeline.teachers.protocol import Teacher

PART = 64  # rows whose tokens and texts stand as Python objects at a time


@dataclass(frozen=True)
class Response:
    """One student response with the prefixes to continue; for a full solution, one empty prefix."""

    id: str
    prompts: Mapping[int, Prompt]  # position: problem and prefix as the teacher gets them
    prefixes: Mapping[int, str]  # position: the student's text up to there
    # position: the last student ids up to there, those of its prompt included
    before: Mapping[int, list[int]] = field(default_factory=dict)


class Others(NamedTuple):
    """Which other problem of its round stands in for each: arm wrong-teacher."""

    seed: int
    prompts: int  # problems of a round

    def of(self, path: Path, round_: int) -> dict[str, str]:
        """prompt_id of the problem that is shown for each prompt_id of round `round_`.

        A permutation that is a function of seed and round; no problem stands in for one of equal
        messages. Raises UserError where over half of the round's problems are equal.
        """
        asked = prompts.read(path, "train", (round_ - 1) * self.prompts, self.prompts)
        same: dict[str, list[str]] = {}  # problems of equal messages
        for prompt in asked:
            same.setdefault(json.dumps(prompt.messages), []).append(prompt.prompt_id)
        groups = list(same.values())
        most = max(map(len, groups))
        if 2 * most > len(asked):
            raise UserError(
                f"{path}: {most} of the {len(asked)} problems of round {round_} are equal, wanted "
                "at most half: teach.problem another shows each response's teacher another "
                "problem. Prepare more different problems, or raise rollout.prompts_per_round."
            )
        order = seeds.generator(self.seed, "teach", "another", round_).permutation(len(groups))
        names = [name for group in order for name in groups[group]]
        # equal problems stand together, so that a shift by the most of them leaves each group
        return dict(zip(names, np.roll(names, -most).tolist(), strict=True))


def solutions(
    teacher: Teacher, path: Path, round_: int, count: int, student: Path
) -> Iterator[Response]:
    """The problems of round `round_`, `count` a round, to be solved from the beginning.

    `student` is the student's checkpoint.
    """
    render = None if teacher.same_tokens else _student_prompt(student)
    for problem in prompts.read(path, "train", (round_ - 1) * count, count):
        ids = [] if render is None else render(problem.messages)
        sent = {0: _prompt(teacher, problem.prompt_id, problem.messages, [], "")}
        yield Response(problem.prompt_id, sent, {0: ""}, {0: ids[-WINDOW:]})


def _student_prompt(student: Path) -> Callable[[list[dict[str, str]]], list[int]]:
    from pipeline.engines.chat import templates, tokenizer_files

    tokenizer = tokenizer_files.load(student)
    return lambda messages: templates.encode(
        tokenizer, templates.render(tokenizer, messages, "student")
    )


class Prefixes:
    """Makes responses with the prefixes to continue out of rows of the rollouts table.

    With `others` the teacher sees another problem before the student's own text.
    """

    def __init__(self, teacher: Teacher, problems: Path, others: Others | None = None) -> None:
        self._teacher = teacher
        self._messages = _Messages(problems)
        self._shown = functools.cache(lambda round_: others.of(problems, round_) if others else {})

    def response(self, row: dict[str, Any], prefixes: dict[int, str]) -> Response:
        """A response and its text up to each position."""
        name, ids = row["prompt_id"], row["token_ids"]
        name = self._shown(row["round"]).get(name, name)
        sent = {
            start: _prompt(self._teacher, name, self._messages[name], ids[:start], text)
            for start, text in prefixes.items()
        }
        own = row["prompt_token_ids"][-WINDOW:]
        before = {start: [*own, *ids[:start]][-WINDOW:] for start in prefixes}
        return Response(row["rollout_id"], sent, prefixes, before)


def forks(
    teacher: Teacher, problems: Path, rollouts: Path, path: Path, others: Others | None = None
) -> Iterator[Response]:
    """The responses that have forks, in the order of the rollouts, a row group at a time."""
    made = Prefixes(teacher, problems, others)
    rows = itertools.groupby(_rows(path, schemas.FORKS), key=lambda row: row["rollout_id"])
    pending = next(rows, None)
    names = ("rollout_id", "prompt_id", "round", "prompt_token_ids", "token_ids")
    for row in _rows(rollouts, schemas.ROLLOUTS, *names):
        if pending is None or pending[0] != row["rollout_id"]:
            continue  # no fork fits into this response
        yield made.response(row, {fork["position"]: fork["prefix_text"] for fork in pending[1]})
        pending = next(rows, None)
    if pending is not None:
        raise UserError(
            f"{path}: {pending[0]} is not among the rollouts, or not in their order. "
            "Rerun forks on these rollouts."
        )


def pairs(
    teacher: Teacher, problems: Path, rollouts: Path, beside: Path, count: int
) -> Iterator[Response]:
    """Responses beside those of another student, as a judge is asked about the two.

    `count` of each prompt. Position 0 has the other's first, position 1 last. Raises UserError
    unless both students answered the same prompts as often.
    """
    shown = _Messages(problems)
    names = ("rollout_id", "prompt_id", "sample", "text")
    for own, other in itertools.zip_longest(
        *(_rows(path, schemas.ROLLOUTS, *names) for path in (rollouts, beside))
    ):
        places = [one and (one["prompt_id"], one["sample"]) for one in (own, other)]
        if places[0] != places[1]:
            raise UserError(
                f"{beside}: found {places[1]} where {rollouts} has {places[0]}, wanted answers to "
                "the same prompts in the same order. Rerun rollout."
            )
        if own["sample"] >= count:
            continue
        name, texts = own["prompt_id"], (other["text"], own["text"])
        asked = (judging.messages(shown[name], *order) for order in (texts, texts[::-1]))
        sent = {i: _prompt(teacher, name, one, [], "") for i, one in enumerate(asked)}
        yield Response(own["rollout_id"], sent, dict.fromkeys(sent, ""), {0: [], 1: []})


def _prompt(
    teacher: Teacher, prompt_id: str, messages: list[dict[str, str]], ids: list[int], text: str
) -> Prompt:
    try:
        return teacher.prompt(messages, ids, text)
    except UserError as error:
        start = messages[-1]["content"][:40]
        raise UserError(f"prompts table, prompt_id {prompt_id} ({start!r}): {error}") from error


def _rows(path: Path, schema: pa.Schema, *columns: str) -> Iterator[dict[str, Any]]:
    for part in tables.stream(path, schema, list(columns) or None, PART):
        yield from part.to_pylist()


class _Messages:
    """The problems' messages by prompt_id, on disk: of a problem its name and place are held."""

    def __init__(self, path: Path) -> None:
        self._places: dict[str, int] = {}
        self._texts = Spool(tables.rows(path, schemas.PROMPTS))
        for group in tables.stream(path, schemas.PROMPTS, ["prompt_id", "messages"]):
            for row in group.to_pylist():
                self._texts.add(len(self._places), (encode(row["messages"]),))
                self._places[row["prompt_id"]] = len(self._places)

    def __getitem__(self, prompt_id: str) -> list[dict[str, str]]:
        return list(json.loads(decode(self._texts[self._places[prompt_id]][0])))
