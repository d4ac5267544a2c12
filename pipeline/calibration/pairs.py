"""Which texts are compared: own fork, floors, ceilings and states, at one chunk length."""

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from pipeline.calibration import Text
from pipeline.calibration.sample import Fork, Response
from pipeline.core import seeds
from pipeline.data.text import WINDOW, decode, decode_after, encode_after, whole
from pipeline.method.similarity import Pair, similarities


class Part(NamedTuple):
    """Pairs, each with the index of what it belongs to: a fork, or a chunk in a state."""

    owner_K: list[int]
    pairs: list[Pair]


@dataclass(frozen=True)
class Comparisons:
    own: Part  # N a fork, in the order of samples
    other_fork: Part
    other_problem: Part
    teacher: Part
    student: Part
    chunks: Part  # of the different chunks in a state
    state_of: np.ndarray  # of each such chunk
    fork_of: np.ndarray  # the fork in which a state was found first


def cut(text: Text, before: list[int], tokens: int, tokenizer: Tokenizer) -> Text:
    """The first `tokens` student tokens of a text that follows the ids `before`; an end within
    them counts as one, as in teach."""
    ids = encode_after(tokenizer, before, text.text)
    written = decode_after(functools.partial(decode, tokenizer), before, ids[:tokens])
    return Text(whole(written), text.ended and len(ids) < tokens, text.ids[:tokens])


def shortened(
    responses: list[Response], tokens: int, longest: int, tokenizer: Tokenizer
) -> list[Response]:
    """The responses with every text cut; at the length of the whole chunk as they are, so that
    `own` there is what score computed."""
    if tokens >= longest:
        return responses

    def of(response: Response, fork: Fork) -> Fork:
        before = response.token_ids[max(fork.position - WINDOW, 0) : fork.position]

        @functools.cache  # answers repeat
        def short(text: Text) -> Text:
            return cut(text, before, tokens, tokenizer)

        answers, siblings = (tuple(map(short, x)) for x in (fork.answers, fork.siblings))
        return replace(fork, chunk=short(fork.chunk), answers=answers, siblings=siblings)

    return [replace(r, forks=tuple(of(r, fork) for fork in r.forks)) for r in responses]


def compare(responses: list[Response], *names: str | int) -> Comparisons:
    """Everything that is measured on some responses. `names` seed the choice of partners."""
    places = [(r, fork) for r in responses for fork in r.forks]
    forks = [fork for _, fork in places]
    chunks, state_of, fork_of = _states(places)
    return Comparisons(
        own=_part(_with(fork.chunk, fork.answers) for fork in forks),
        other_fork=_part(_across(forks, _other_forks(responses, names))),
        other_problem=_part(_across(forks, _other_problems(responses, names))),
        teacher=_part(_among(fork.answers) for fork in forks),
        student=_part(_with(fork.chunk, fork.siblings) for fork in forks),
        chunks=chunks,
        state_of=state_of,
        fork_of=fork_of,
    )


def measure(
    asked: Iterable[Comparisons], metric: str, tokenizer: Tokenizer
) -> Iterator[dict[str, np.ndarray]]:
    """Similarities of every part of each, in one call: a model is loaded once, and each text
    embedded once. `tokenizer` is the student's."""
    parts = [
        {name: value for name, value in vars(c).items() if isinstance(value, Part)} for c in asked
    ]
    pairs = [pair for found in parts for part in found.values() for pair in part.pairs]
    values = iter(similarities(pairs, metric, tokenizer))
    for found in parts:
        yield {
            name: np.fromiter(itertools.islice(values, len(part.pairs)), np.float64)
            for name, part in found.items()
        }


def _part(pairs: Iterable[Iterable[Pair]]) -> Part:
    found = [(owner, pair) for owner, own in enumerate(pairs) for pair in own]
    return Part([owner for owner, _ in found], [pair for _, pair in found])


def _with(one: Text, others: Iterable[Text]) -> Iterator[Pair]:
    return (_pair(one, other) for other in others)


def _pair(one: Text, other: Text) -> Pair:
    return Pair(one.text, one.ended, other.text, other.ended, one.ids, other.ids)


def _across(forks: list[Fork], partner: list[int | None]) -> Iterator[Iterator[Pair]]:
    """Each fork's chunk with the continuations of its partner."""
    for fork, other in zip(forks, partner, strict=True):
        yield _with(fork.chunk, () if other is None else forks[other].answers)


def _among(answers: tuple[Text, ...]) -> Iterator[Pair]:
    """Each answer with the next, the last with the first: as many pairs as answers."""
    for i in range(len(answers) if len(answers) > 2 else len(answers) - 1):
        yield _pair(answers[i], answers[(i + 1) % len(answers)])


def _ranges(responses: list[Response]) -> list[range]:
    """Indices of each response's forks."""
    ends = list(itertools.accumulate(len(r.forks) for r in responses))
    return [range(end - len(r.forks), end) for end, r in zip(ends, responses, strict=True)]


def _other_forks(responses: list[Response], names: tuple[str | int, ...]) -> list[int | None]:
    """The next fork of the same response in a random circle; none for a single one."""
    partner: dict[int, int | None] = {}
    for response, own in zip(responses, _ranges(responses), strict=True):
        order = seeds.generator(*names, "other-fork", response.id).permutation(own).tolist()
        for one, other in zip(order, order[1:] + order[:1], strict=True):
            partner[one] = None if one == other else other
    return [partner[i] for i in range(len(partner))]


def _other_problems(responses: list[Response], names: tuple[str | int, ...]) -> list[int | None]:
    """A random fork of the next problem in a random circle; none where there is one problem."""
    forks_of: dict[str, list[int]] = {}
    for response, own in zip(responses, _ranges(responses), strict=True):
        forks_of.setdefault(response.problem, []).extend(own)
    order = sorted(forks_of, key=lambda name: seeds.number(*names, "other-problem", name))
    after = dict(zip(order, order[1:] + order[:1], strict=True))
    partner: list[int | None] = []
    for response in responses:
        theirs = forks_of[after[response.problem]]
        draw = seeds.generator(*names, "other-problem", response.id)
        alone = len(order) == 1
        partner += [None if alone else theirs[draw.integers(len(theirs))] for _ in response.forks]
    return partner


def _states(places: list[tuple[Response, Fork]]) -> tuple[Part, np.ndarray, np.ndarray]:
    """The different chunks of each state that has several, with the state's continuations."""
    seen: set[tuple[str, tuple[int, ...]]] = set()
    pairs: list[Iterator[Pair]] = []
    state_of: list[int] = []
    fork_of: list[int] = []
    for index, (response, fork) in enumerate(places):
        state = (response.problem, tuple(response.token_ids[: fork.position]))
        different: dict[tuple[str, bool], Text] = {}  # by what is said, however it is cut in tokens
        for chunk in (fork.chunk, *fork.siblings):
            different.setdefault((chunk.text.lstrip(), chunk.ended), chunk)
        if len(different) < 2 or state in seen:
            continue
        seen.add(state)
        pairs += [_with(chunk, fork.answers) for chunk in different.values()]
        state_of += [len(fork_of)] * len(different)
        fork_of.append(index)
    return _part(pairs), np.array(state_of, np.int64), np.array(fork_of, np.int64)
