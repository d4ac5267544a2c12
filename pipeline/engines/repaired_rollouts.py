"""Responses that the teacher repaired: its stretch where it disagreed first, then the student's.

Of each response the first fork counts at which the teacher's first answer differs from the chunk
of the student. Up to there the response stays; then comes the answer, C tokens at most; from there
the round's student goes on, to its end or to rollout.max_new_tokens in all. Where the teacher
agrees everywhere, or the response has no fork, it stays. pipeline/method/objectives/repair/ says
what it is after.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.core import seeds
from pipeline.core.disk_rows import Each, Spool, integers
from pipeline.core.errors import UserError, too_long
from pipeline.data import schemas, tables
from pipeline.engines.hf import Policy, generate
from pipeline.engines.sampling import Generated, Sampler, generated

OF_ROLLOUTS = ["rollout_id", "prompt_token_ids", "token_ids"]
OF_ANSWERS = ["rollout_id", "position", "sample", "text", "ended", "token_ids"]


class Stretch(NamedTuple):
    """What the teacher wrote at the first fork where it disagreed."""

    position: int
    token_ids: list[int]
    ended: bool


class How(NamedTuple):
    sampler: Sampler
    most: int  # tokens of a response
    seed: int
    round: int
    batch_tokens: int


def repaired(
    policy: Policy, args: Any, p: Any, batch_tokens: int, counts: dict[str, Any]
) -> Sequence[Any]:
    """The responses of a cell of stage rollout, by its arguments and params."""
    sampler = Sampler(p.temperature, p.top_p, p.top_k)
    how = How(sampler, p.max_new_tokens, p.seed, p.round, batch_tokens)
    return responses(policy, args.rollouts, stretches(args.forks, args.answers), how, counts)


def stretches(forks: Path, answers: Path) -> dict[str, Stretch]:
    """The stretch of each response that gets one, by rollout_id. Raises UserError where a fork has
    no answer."""
    said: dict[tuple[str, int], dict[str, Any]] = {}
    for group in tables.stream(answers, schemas.ANSWERS, OF_ANSWERS):
        for row in group.to_pylist():
            if row["sample"] == 0:
                said[row["rollout_id"], row["position"]] = row
    found: dict[str, Stretch] = {}
    names = ["rollout_id", "position", "chunk_text", "ended"]
    for group in tables.stream(forks, schemas.FORKS, names):  # ascending within a response
        for fork in group.to_pylist():
            place = (fork["rollout_id"], fork["position"])
            if place not in said:
                raise UserError(f"answers: fork {place} has none, wanted one of each. Rerun teach.")
            answer, own = said[place], (fork["chunk_text"].lstrip(), fork["ended"])
            if (
                fork["rollout_id"] not in found
                and (answer["text"].lstrip(), answer["ended"]) != own
            ):
                stretch = Stretch(place[1], answer["token_ids"], answer["ended"])
                found[fork["rollout_id"]] = stretch
    return found


def responses(
    policy: Policy, rollouts: Path, repairs: dict[str, Stretch], how: How, counts: dict[str, Any]
) -> Sequence[Generated]:
    """The round's responses in their order, repaired. `counts` gets how many were, and the tokens
    that the student wrote for it."""
    heads, open_, names = Spool(), Spool(), list[str]()
    for row in _rows(rollouts):
        ids, stretch = list(row["token_ids"]), repairs.get(row["rollout_id"])
        if stretch is not None:
            ids = [*ids[: stretch.position], *stretch.token_ids][: how.most]
            if stretch.ended and len(ids) < how.most:
                ids.append(policy.ends[0])
            elif len(ids) < how.most:
                place = np.array([len(heads), len(ids)])
                context = np.array([*row["prompt_token_ids"], *ids], np.int32)
                open_.add(len(open_), (place, context))
                names.append(row["rollout_id"])
        heads.add(len(heads), (np.asarray(ids, np.int32),))
    whole, tokens = dict[int, list[int]](), 0
    for i, one in _continued(policy, open_, names, how):
        at, start = (int(x) for x in open_[i][0])
        more = one.token_ids[: how.most - start]
        whole[at], tokens = [*integers(heads[at]), *more], tokens + len(more)
    counts |= {"repaired": len(repairs), "repair_tokens": tokens}
    made = (whole.get(i) or integers(heads[i]) for i in range(len(heads)))
    found = Spool(len(heads))
    for i, ids in enumerate(made):
        found.add(i, (np.asarray(ids, np.int32),))
    return Each(found, lambda row: generated(policy.ends, integers(row)))


def _continued(
    policy: Policy, open_: Spool, names: list[str], how: How
) -> Iterator[tuple[int, Generated]]:
    """What the student writes behind each stretch that has room for more."""
    if not names:
        return iter(())
    contexts = Each(open_, lambda row: integers(row[1:]))
    longest = max(len(context) for context in contexts) + how.most
    if policy.context is not None and longest > policy.context:
        where = "rollout: a repaired response with what follows it"
        raise too_long(where, longest, policy.context, "Lower rollout.max_new_tokens.")
    uniforms = seeds.Uniforms(
        len(names), how.most, lambda i: (how.seed, "repair", how.round, names[i])
    )
    return generate(policy, contexts, uniforms, how.sampler, how.most, how.batch_tokens, ())


def _rows(rollouts: Path) -> Iterator[dict[str, Any]]:
    for group in tables.stream(rollouts, schemas.ROLLOUTS, OF_ROLLOUTS):
        yield from group.to_pylist()
