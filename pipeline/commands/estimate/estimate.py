"""`omniopd estimate`: requests, tokens, dollars and hours of an experiment, before any is spent.

A cell whose forks exist is counted exactly: its keys are looked up in the store. One whose forks do
not exist yet is estimated from params, at its most: every response as long as allowed, as many
forks as fit into it. Those of later rounds do not exist until the student of the round before does.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from pipeline import teachers
from pipeline.config.teachers import Hosted, LocalTeacher
from pipeline.data import schemas, tables
from pipeline.judgments.store import Store
from pipeline.method.judging import ASKED
from pipeline.plan import budget_caps, expand
from pipeline.plan.blocks import Experiment, Settings
from pipeline.plan.evaluation import held_out
from pipeline.stage import dataflow, multi_step
from pipeline.teachers import continuations, protocol
from pipeline.teachers.capabilities import capability
from pipeline.teachers.purchase import requests
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.buyer import Judging, Wanted
from pipeline.teachers.purchase.requests import Response
from pipeline.teachers.wire.counting import CHARACTERS_PER_TOKEN, tokens

DATA = Path("data")
SECONDS = 2.0  # of one request, where no rate is given: a guess
BATCH_HOURS = 24.0  # a batch service takes at most; a cell is one batch
PROMPT_TOKENS = 200  # of a problem, where the pool does not exist yet: a guess
ANSWERS = "teach-answers"  # of evaluate.agreement
BLOCK = 256  # responses that are looked up together


@dataclass(frozen=True)
class Cost:
    """The cost of the answers of one cell, or of several together."""

    answers: int = 0
    held: int = 0  # of them, in the store already
    requests: int = 0  # for the rest
    input_tokens: int = 0
    output_tokens: int = 0  # at most
    usd: float = 0.0
    hours: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        mine, theirs = asdict(self), asdict(other)
        return Cost(**{name: mine[name] + theirs[name] for name in mine})


def estimate(experiment: Experiment, plan: dict[str, Any], store: Store) -> list[dict[str, Any]]:
    """A row for each arm, seed, round and teacher; a cell that arms share is counted once.

    Later rows of a shared cell cost nothing and name the arm that pays (`shared with`). An answer
    that several cells want, as one with fewer samples does, counts in the first of them.
    """
    rows: list[dict[str, Any]] = []
    paid: dict[str, str] = {}  # cell: the arm that it is counted under
    counted: dict[int, int] = {}  # beginning of an answer's key: its token limit
    for arm, seeds in expand.named(plan).items():
        for seed, rounds in seeds.items():
            for round_, stages in rounds.items():
                for stage in (name for name in stages if name.startswith("teach")):
                    key = stages[stage]
                    found = asked(plan, key)
                    row = {"arm": arm, "seed": seed[5:], "round": round_[6:]}
                    row["teacher"] = found[0][1]["params"]["teacher"]
                    # whole answers to the same prompts, whichever student's rollouts they are for
                    shared = stage if stage == ANSWERS else key
                    if shared in paid:
                        told = f"shared with {paid[shared]}"
                        rows.append(row | {"counted": told} | asdict(Cost()))
                        continue
                    paid[shared] = arm
                    settings = settings_of(experiment, arm, stage)
                    cost = Cost()
                    for group, cell in found:
                        more, basis = _cell(experiment, settings, cell, group, store, counted)
                        cost += more
                    if settings.teach.transport == "batch" and cost.requests:
                        cost = replace(cost, hours=BATCH_HOURS * len(found))
                    rows.append(row | {"counted": basis} | asdict(cost))
    return rows


def settings_of(experiment: Experiment, name: str, stage: str) -> Settings:
    """The settings of a stage's cell, by the arm that `expand.named` has it under."""
    arm, _, more = name.partition("+")
    if more == expand.HELD_OUT:
        return held_out.settings_of(experiment, stage)
    if more:
        return experiment.branch(more)
    return experiment.arm(experiment.experiment.arms[0] if arm == "base" else arm)


def total(rows: list[dict[str, Any]]) -> Cost:
    """All rows together."""
    names = Cost.__dataclass_fields__
    return sum((Cost(**{name: row[name] for name in names}) for row in rows), Cost())


def asked(plan: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """Group and content of a cell; of several steps one of all, where there are tables, or each."""
    groups = ((name, plan["cells"][name]) for name in expand.GROUPS)
    group, cell = next((name, own[key]) for name, own in groups if key in own)
    if not group.startswith("steps"):
        return [(group, cell)]
    taught = [one for one in multi_step.inner(key, cell) if one.stage == "teach"]
    if "forks" in taught[0].content and (DATA / "forks" / key / "forks.parquet").is_file():
        return [(taught[0].group, multi_step.as_one(key, cell, "teach"))]
    return [(one.group, one.content) for one in taught]


def _cell(
    experiment: Experiment,
    settings: Settings,
    cell: dict[str, Any],
    group: str,
    store: Store,
    counted: dict[int, int],
) -> tuple[Cost, str]:
    p = cell["params"]
    config = experiment.teachers[p["teacher"]]
    base = Path(cell["student"]) / "checkpoint"
    known = base.is_dir() and (DATA / "prepare" / cell["prompts"] / "prompts.parquet").is_file()
    read = dataflow.reads(group, cell)
    known &= all(Path(read[x]).is_file() for x in ("rollouts", "beside", "forks") if x in read)
    if "teacher" in cell:
        known &= (Path(cell["teacher"]) / "checkpoint").is_dir()
    if not known:
        return _guessed(settings, config, cell, group), "at most, from params"
    folder = Path(cell["teacher"]) if "teacher" in cell else None
    asked = protocol.Asked(
        p["continuation"], p["temperature"], settings.teach.transport, experiment.runtime
    )
    teacher = teachers.load(config, p["teacher"], asked, base, folder)
    limit = teacher.limit(p["chunk_tokens"])
    wanted = Wanted(_most(p), limit, p["epoch"], p["max_attempts"], 1.0, True)
    judging = Judging(teacher, wanted, Budget(store))
    transport = settings.teach.transport
    basis = "exactly" if p["samples"] == _most(p) else "at most, from the forks"
    return _counted(judging, _asked(teacher, cell, base), config, transport, counted), basis


def _most(p: dict[str, Any]) -> int:
    """Answers of a place at most; how many an adaptive N buys, the answers themselves decide."""
    return int(p["samples"]["most"] if isinstance(p["samples"], dict) else p["samples"])


def _asked(teacher: protocol.Teacher, cell: dict[str, Any], student: Path) -> Iterator[Response]:
    problems = DATA / "prepare" / cell["prompts"] / "prompts.parquet"
    p = cell["params"]
    if "beside" in cell:
        names = [cell[x] for x in ("rollouts", "beside")]
        own, other = (DATA / "rollout" / name / "rollouts.parquet" for name in names)
        return requests.pairs(teacher, problems, own, other, p["pairs"])
    if "rollouts" not in cell:
        return requests.solutions(teacher, problems, p["round"], p["prompts_per_round"], student)
    rollouts = DATA / "rollout" / cell["rollouts"] / "rollouts.parquet"
    forks = DATA / "forks" / cell["forks"] / "forks.parquet"
    other = p.get("problem") == "another"
    others = requests.Others(p["seed"], p["prompts_per_round"]) if other else None
    return requests.forks(teacher, problems, rollouts, forks, others)


def _counted(
    judging: Judging,
    asked: Iterator[Response],
    config: Hosted | LocalTeacher,
    transport: str,
    counted: dict[int, int],
) -> Cost:
    """Draws of the first attempt that the store lacks, and what they take."""
    wanted, store, cost = judging.wanted, judging.budget.store, Cost()
    while block := list(islice(asked, BLOCK)):
        places = [
            (r, position, sample)
            for r, response in enumerate(block)
            for position in response.prompts
            for sample in range(wanted.samples)
        ]
        requests = {one.key: (at, one) for at, one in judging.requests(block, places, 0)}
        requests = {k: v for k, v in requests.items() if counted.get(_short(k), 0) < wanted.limit}
        counted.update(dict.fromkeys(map(_short, requests), wanted.limit))
        asked_for = [request for _, request in requests.values()]
        held = {found.key for found in store.find(asked_for, wanted.limit)}
        missing: dict[tuple[int, int], list[int]] = {}
        for key, ((r, position, sample), _) in requests.items():
            if key not in held:
                missing.setdefault((r, position), []).append(sample)
        sizes = [
            (tokens(block[r].prompts[position]), n)
            for (r, position), samples in missing.items()
            for n in _runs(samples)
        ]
        cost += _priced(config, sizes, wanted.limit, transport)
        cost += Cost(answers=len(requests), held=len(held))
    return cost


def _short(key: str) -> int:
    return int(key[:15], 16)  # 60 bits tell millions apart in less memory


def _runs(samples: list[int]) -> list[int]:
    """Lengths of the runs of consecutive samples: a request asks for no others."""
    places = groupby(enumerate(samples), key=lambda item: item[1] - item[0])
    return [len(list(run)) for _, run in places]


def _guessed(
    settings: Settings, config: Hosted | LocalTeacher, cell: dict[str, Any], group: str
) -> Cost:
    p = cell["params"]
    solutions = group.endswith("solutions")
    problem = problem_tokens(DATA / "prepare" / cell["prompts"] / "prompts.parquet")
    longest = settings.rollout.max_new_tokens
    prompts, forks = settings.rollout.prompts_per_round, budget_caps.forks(settings)
    if "pairs" in p:  # two orders of two answers, as long as they may be
        judged = Cost(answers=prompts * p["pairs"] * 2 * _most(p))
        size = problem + len(ASKED) / CHARACTERS_PER_TOKEN + 2 * longest
        sizes = [(size, _most(p))] * (2 * prompts * p["pairs"])
        limit = _limit(config, p)
        return judged + _priced(config, sizes, limit, settings.teach.transport)
    whole = solutions or settings.forks.scheduler == "whole"  # of a prompt, once for all responses
    prefixes = prompts if whole else budget_caps.prefixes(settings)
    size = problem
    if not whole:
        # on average, where they are as late as fits
        size += longest - settings.forks.chunk_tokens * (forks + 1) / 2
    limit = _limit(config, p)
    if p["continuation"] == "instruct" and not whole:
        size += len(continuations.INSTRUCTION) / CHARACTERS_PER_TOKEN
    cost = _priced(config, [(size, _most(p))] * prefixes, limit, settings.teach.transport)
    return cost + Cost(answers=prefixes * _most(p))


def _limit(config: Hosted | LocalTeacher, p: dict[str, Any]) -> int:
    """Teacher tokens of an answer at most, where its tokenizer is not known yet."""
    chunk: int = p["chunk_tokens"]
    if isinstance(config, LocalTeacher):
        return chunk
    return 2 * chunk + 24 if p["continuation"] == "instruct" else -(-3 * chunk // 2) + 8


def problem_tokens(path: Path) -> float:
    if not path.is_file():
        return PROMPT_TOKENS
    texts = tables.read(path, schemas.PROMPTS, ["messages"])["messages"].to_pylist()
    return sum(map(len, texts)) / len(texts) / CHARACTERS_PER_TOKEN


def _priced(
    config: Hosted | LocalTeacher, sizes: list[tuple[float, int]], limit: int, transport: str
) -> Cost:
    """The cost of prefixes of `sizes`, (prompt tokens, consecutive samples), from this teacher."""
    output = limit * sum(n for _, n in sizes)
    if isinstance(config, LocalTeacher):
        read = round(sum(size for size, _ in sizes))
        return Cost(input_tokens=read, output_tokens=output)
    can = capability(config.provider, config.model)
    most = min(can.most, config.samples_per_request or can.most)
    calls = [(size, -(-n // most)) for size, n in sizes]
    requests = sum(count for _, count in calls)
    read = round(sum(size * count for size, count in calls))
    usd = 0.0
    if config.price:
        usd = (config.price.input * read + config.price.output * output) / 1e6
        usd *= config.price.batch if transport == "batch" else 1.0
    return Cost(0, 0, requests, read, output, usd, _hours(config, requests, read + output))


def _hours(config: Hosted, requests: int, count: int) -> float:
    """Hours by the stated rates; without any, by a guessed duration of a request."""
    minutes = [requests * SECONDS / 60 / config.concurrency]
    if config.requests_per_minute:
        minutes.append(requests / config.requests_per_minute)
    if config.tokens_per_minute:
        minutes.append(count / config.tokens_per_minute)
    return max(minutes) / 60
