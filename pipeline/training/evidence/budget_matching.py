"""experiment.match: a round's evidence cut to a budget, in prompt order, by what it really took.

Prompts are kept from the first on for as long as the sum of their costs stays within the cap; what
follows is not trained on. The cost of a prompt is the sum over its responses of

    teacher_output_tokens  completion tokens of the answers to it; for imitate-forks of those that
                           it imitates, the first train.answers at a fork
    usd                    the same answers' prompt and completion tokens at the teacher's price,
                           each answer as if it were asked for alone
    student_tokens         tokens of the responses that are trained on, once whatever the epochs;
                           for imitate-forks of the responses that its forks are in, not of what it
                           imitates at them

A control that reads another arm's targets is cut by that arm's answers, so both keep the same
prompts; its weight is still the mean over all of that arm's forks, and run.json has the mean over
the kept ones beside it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.teachers import Price
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables

Counts = dict[str, float | int | str]
ROUNDING = 1e-9  # of a sum of dollars


class Priced(NamedTuple):
    """A response and what it took; of full solutions, those of a prompt together."""

    id: str  # rollout_id, as in every table of the round
    prompt: str
    cost: float  # in the matched resource
    responses: int = 1
    answer_tokens: int = 0  # completion tokens of its answers, where they were read


class Cut(NamedTuple):
    ids: frozenset[str]  # of responses that are kept
    counts: Counts  # for run.json

    def keep(self, table: pa.Table) -> pa.Table:
        """The rows of kept responses."""
        kept = [name in self.ids for name in table["rollout_id"].to_pylist()]
        return table.filter(pa.array(kept, pa.bool_()))


def kept_prompts(costs: Mapping[str, float], cap: float) -> list[str]:
    """Prompts from the first on whose costs together stay within `cap`."""
    kept, total = [], 0.0
    for prompt, cost in costs.items():
        total += cost
        if total > cap * (1 + ROUNDING):
            break
        kept.append(prompt)
    return kept


def cut(priced: Iterable[Priced], cap: float, match: str) -> Cut:
    """The responses of the prompts that are kept. Raises UserError if there are none."""
    rows, cap = list(priced), cap if match == "usd" else int(cap)
    costs: dict[str, float] = {}
    for row in rows:
        costs[row.prompt] = costs.get(row.prompt, 0) + row.cost
    prompts = set(kept_prompts(costs, cap))
    if not prompts:
        first = next(iter(costs.items()), ("none", 0))
        raise UserError(
            f"train: experiment.match: found a cap of {cap} {match} a round, wanted at least the "
            f"{first[1]} of the first prompt, {first[0]}. Raise experiment.budget, or lower what "
            "a prompt takes: samples, forks or lengths."
        )
    kept = [row for row in rows if row.prompt in prompts]
    used = sum(row.cost for row in kept)
    counts: Counts = {
        "match": match,
        "cap": cap,
        "used": round(used, 6) if match == "usd" else int(used),
        "kept_prompts": len(prompts),
        "cut_prompts": len(costs) - len(prompts),
        "kept_responses": sum(row.responses for row in kept),
        "cut_responses": sum(row.responses for row in rows) - sum(row.responses for row in kept),
    }
    if match != "student_tokens":
        counts["answer_tokens_kept"] = sum(row.answer_tokens for row in kept)
    return Cut(frozenset(row.id for row in kept), counts)


def teacher_tokens(
    rollouts: Path | None, answers: Path, price: Price | None, first: int | None = None
) -> list[Priced]:
    """The round's responses by what the answers to them took; without rollouts, full solutions.

    Of the `first` samples at each place, where not all are trained on.
    """
    prompt_of = None
    if rollouts:
        names = ["rollout_id", "prompt_id"]
        own = tables.read(rollouts, schemas.ROLLOUTS, names)
        prompt_of = dict(zip(*(own[name].to_pylist() for name in names), strict=True))
    read = tables.stream(answers, schemas.ANSWERS)
    if first is not None:
        read = (group.filter(pc.less(group["sample"], first)) for group in read)
    return by_answers(read, prompt_of, price)


def student_tokens(rollouts: Path | None, answers: Path | None, only_right: bool) -> list[Priced]:
    """The round's responses by the student tokens that are trained on."""
    if rollouts:
        return by_rollouts(tables.stream(rollouts, schemas.ROLLOUTS), only_right)
    assert answers is not None
    return by_solutions(tables.stream(answers, schemas.ANSWERS))


def by_answers(
    answers: Iterable[pa.Table], prompt_of: Mapping[str, str] | None, price: Price | None
) -> list[Priced]:
    """Responses by the completion tokens of their answers, or with `price` by dollars.

    In the order of `prompt_of`, the rollouts' prompts; None is for full solutions, in their own.
    Raises UserError for an answer to another response.
    """
    found = {} if prompt_of is None else {name: [0, 0, 0] for name in prompt_of}
    for group in answers:
        columns = [group[n].to_pylist() for n in ("rollout_id", "prompt_tokens")]
        tokens = group["completion_tokens"].to_pylist()
        for name, read, written in zip(*columns, tokens, strict=True):
            if prompt_of is not None and name not in prompt_of:
                raise UserError(
                    f"answers: {name} is not among the rollouts. Train on the rollouts that the "
                    "answers were bought for."
                )
            sums = found.setdefault(name, [0, 0, 0])
            for i, value in enumerate((1, read, written)):
                sums[i] += value
    return [
        Priced(
            name,
            name if prompt_of is None else prompt_of[name],
            written if price is None else (price.input * read + price.output * written) / 1e6,
            count if prompt_of is None else 1,
            written,
        )
        for name, (count, read, written) in found.items()
    ]


def by_rollouts(rollouts: Iterable[pa.Table], only_right: bool) -> list[Priced]:
    """Responses by their own tokens; with `only_right` (rft) those that are left out cost none."""
    found: list[Priced] = []
    for group in rollouts:
        sizes = pc.list_value_length(group["token_ids"])
        if only_right:
            right = pc.and_(
                pc.equal(pc.fill_null(group["reward"], 0), 1),
                pc.equal(group["finish_reason"], "stop"),
            )
            sizes = pc.if_else(right, sizes, 0)
        names = (group[n].to_pylist() for n in ("rollout_id", "prompt_id"))
        found += map(Priced, *names, sizes.to_pylist())
    return found


def by_solutions(answers: Iterable[pa.Table]) -> list[Priced]:
    """Full solutions by the student tokens that are trained on: none of one that was cut."""
    found: dict[str, list[int]] = {}
    for group in answers:
        columns = (group[n].to_pylist() for n in ("rollout_id", "token_ids", "ended"))
        for name, ids, ended in zip(*columns, strict=True):
            sums = found.setdefault(name, [0, 0])
            sums[0] += len(ids) + 1 if ended else 0  # and the end
            sums[1] += 1
    return [Priced(name, name, size, count) for name, (size, count) in found.items()]


def counts(cut: Cut | None, targets: Path | None) -> Counts | None:
    """What was kept and cut, for run.json, with the mean weight of the kept chunks and of all."""
    if cut is None or targets is None:
        return cut and cut.counts
    uncut = tables.read(targets, schemas.TARGETS, ["rollout_id", "weight"])
    named = (("mean_weight", cut.keep(uncut)), ("mean_weight_uncut", uncut))
    return cut.counts | {n: float(pc.mean(t["weight"]).as_py()) for n, t in named if len(t)}


def steps(kept: int, planned: int, cap: float) -> Counts:
    """The same where the first optimizer steps of the round are taken instead."""
    found: Counts = {"match": "optimizer_steps", "cap": int(cap), "used": kept}
    return found | {"kept_steps": kept, "cut_steps": planned - kept}
