"""The teacher of a cell of stage teach, with everything that it is asked by.

For the stage itself, and for what buys its answers while the rollouts are still sampled.
"""

import argparse
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline import teachers
from pipeline.config import params, params_file, teacher_lines
from pipeline.config.method import Answered, Bought
from pipeline.config.teachers import LocalTeacher, Teacher
from pipeline.judgments.store import Store
from pipeline.method.adaptive import least
from pipeline.teachers import protocol
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.buyer import Judging, Wanted


class TeachParams(Answered):
    teacher: str
    kind: str
    engine: params.Engine = "hf"  # of a local teacher
    provider: str | None = None  # of a hosted teacher; a local one is a folder
    model: str | None = None
    tokenizer: str | None = None
    problem: params.Problem = "own"  # whose messages stand before the student's text
    seed: int = 0  # another: which one is drawn from it
    chunk_tokens: params.Count  # C, or the longest solution
    round: params.Count
    prompts_per_round: params.Count  # full solutions: which slice of the pool
    pairs: params.Count | None = None  # a judge: of answers to each prompt


def judge(args: argparse.Namespace, p: TeachParams, store: Store) -> Judging:
    """The teacher of the cell with everything that it is asked by."""
    free = params_file.free("teach", Bought)
    config = _config(p)
    asked = protocol.Asked(p.continuation, p.temperature, free.transport, params_file.runtime())
    teacher = teachers.load(config, p.teacher, asked, args.tokenizer.parent, args.teacher)
    limit = teacher.limit(p.chunk_tokens)
    first = least(p.samples)
    rate, any_reply = p.max_failure_rate, p.pairs is not None
    wanted = Wanted(first, limit, p.epoch, p.max_attempts, rate, free.replay, any_reply)
    budget = Budget(store, free.max_requests, free.max_usd)
    judging = Judging(teacher, wanted, budget)
    if p.kind != "local":
        from pipeline.teachers.hosted import Hosted
        from pipeline.teachers.purchase import preflight

        assert isinstance(teacher, Hosted)

        accepted = free.accept_terms
        names = (accepted,) if isinstance(accepted, str) else accepted
        judging.before_spending = preflight.before_spending(teacher, budget, names)
    return judging


def template_lead(teacher: protocol.Teacher, student: Path) -> str:
    """The student template's lead; empty where answers are in the student's own tokens."""
    if teacher.same_tokens:
        return ""
    from pipeline.engines.chat import templates, tokenizer_files

    return templates.lead(tokenizer_files.load(student))


def _free(name: str) -> dict[str, Any]:
    """What params.yaml says of a teacher: in its entry, or in the line that stands for one."""
    if found := params_file.untracked("teachers").get(name):
        return dict(found)
    values = {block: params_file.untracked(block) for block in teacher_lines.WHERE}
    return teacher_lines.hosted(teacher_lines.blocks(values)).get(name, {})


def _config(p: TeachParams) -> Teacher:
    """The teacher: what the cell fixes of it, and from params.yaml how to reach it."""
    free = _free(p.teacher)
    if p.kind == "local":
        stays = free.get("resident")
        return LocalTeacher(kind="local", model=p.teacher, engine=p.engine, resident=stays)
    fixed = {"kind": p.kind, "provider": p.provider, "model": p.model, "tokenizer": p.tokenizer}
    if p.kind != "openai_compatible":
        del fixed["provider"], fixed["tokenizer"]
    return params_file.parsed(f"teachers.{p.teacher}", TypeAdapter(Teacher), {**free, **fixed})
