"""params.yaml expanded into cells: every stage of every round, arm and seed, named by content.

A cell's key is `c` and 8 hex digits of the hash of its stage, its resolved params and the cells
it reads. Arms that agree up to some point share cells up to there. Pure, but for the files of
problems that params name: the hash of their content is part of a cell.
"""

import graphlib
from typing import Any

from pipeline.code_digest import variants
from pipeline.config.models import LlamaInit, ModelInit
from pipeline.config.params import METHOD
from pipeline.config.problems import TaskPrepare
from pipeline.core.chosen import file_of
from pipeline.core.errors import UserError
from pipeline.plan import budget_caps, step_cells
from pipeline.plan.blocks import Experiment, Settings
from pipeline.plan.evaluation import held_out
from pipeline.plan.resolved import dump, engined, method, sandboxed, who
from pipeline.plan.rounds import Round
from pipeline.stage import cells

HELD_OUT = "held-out"
GROUPS = (  # in data-flow order; a key is a hash of the group, too
    "prepare",
    "prepare-rows",
    "prepare-hub",
    "pretrain",
    "pretrain-more",
    *("rollout", "rollout-sandbox", "rollout-repair"),
    *("rollout-vllm", "rollout-vllm-sandbox"),
    "forks",
    "forks-student",
    *("teach", "teach-solutions", "teach-vllm", "teach-vllm-solutions"),
    *("teach-hosted", "teach-hosted-solutions"),
    *("teach-judge", "teach-vllm-judge", "teach-hosted-judge"),
    "score",
    "score-ids",
    *("score-zero", "score-outcome"),
    "prior",
    "prior-control",
    "prior-none",
    "prior-teacher",
    *("prior-2", "prior-3", "prior-4"),
    "calibrate",
    "train",
    "train-matched",
    "train-agreement",
    *("train-opd", "train-opd-forks", "train-grpo", "train-sft"),
    *("train-imitate-forks", "train-soda", "train-repair"),
    "steps",
    "steps-zero",
    "steps-prior",
    "steps-control",
    "steps-rollouts",
    "steps-solutions",
    "steps-forks",
    "steps-opd-forks",
    *("evaluate", "evaluate-sandbox", "evaluate-vllm", "evaluate-vllm-sandbox"),
    "report",
)
Cells = dict[str, dict[str, dict[str, Any]]]  # group: key: {params, inputs...}


def expand(experiment: Experiment) -> dict[str, Any]:
    """The plan: {cells: {GROUP: {KEY: cell}, arms: {ARM: {seed-S: ...}}}}.

    A group is a stage, or a stage and a dash where some of its cells read other inputs. Beside
    `arms`, `branches` maps each control of experiment.branch to its own cells of the rounds of
    omniopd, and `held_out` each arm to those of evaluate.agreement and judge.
    """
    plan = Plan(experiment)
    for seed in experiment.experiment.seeds:
        for name in experiment.experiment.arms:
            plan.arm(name, seed)
        for name in experiment.experiment.branch:
            plan.branch(name, seed)
    plan.held_out = held_out.cells(plan, plan.arms)
    report = {"params": plan.report_params()}
    plan.cells["report"]["report"] = report | {"code": variants.of("report", report).name}
    return _linked(plan.cells, plan.arms, plan.branches, plan.held_out)


def _linked(cells: Cells, arms: Any, branches: Any = None, held_out: Any = None) -> dict[str, Any]:
    links = {"arms": arms, "branches": branches or {}, "held_out": held_out or {}}
    return {"cells": {**cells, **links}}


def named(plan: dict[str, Any]) -> dict[str, Any]:
    """Rounds by arm; the cells that a branch adds as omniopd+CONTROL, those that block evaluate
    asks of held-out prompts as ARM+held-out."""
    branches, looks = plan["cells"]["branches"].items(), plan["cells"]["held_out"].items()
    found = {f"{METHOD}+{name}": rounds for name, rounds in branches}
    found |= {f"{arm}+{HELD_OUT}": rounds for arm, rounds in looks}
    return {**plan["cells"]["arms"], **found}


def audited(experiment: Experiment, arm: str) -> dict[str, Any]:
    """The plan of `omniopd audit`: round 1 of an arm up to targets and calibration, no training.

    Of the same form as the plan of an experiment.
    """
    plan = Plan(experiment)
    first = _first(plan, arm)
    first.prior()
    first.calibrate()
    seed = f"seed-{first.where['seed']}"
    arms = {
        "base": {seed: {"round-0": {"policy": first.base}}},
        arm: {seed: {"round-1": first.found}},
    }
    return _linked(plan.cells, arms)


def imported(experiment: Experiment, arm: str) -> dict[str, Any]:
    """The plan of `omniopd import`: the rollouts of `audited` alone."""
    plan = Plan(experiment)
    first = _first(plan, arm)
    first.rollout()
    arms = {arm: {f"seed-{first.where['seed']}": {"round-1": first.found}}}
    return _linked(plan.cells, arms)


def _first(plan: "Plan", arm: str) -> Round:
    """Round 1 of an arm under the first seed, without a cell yet."""
    settings, block = plan.experiment.arm(arm), plan.experiment.experiment
    prompts = plan.prompts(settings.prepare)
    base = plan.model(block.student, settings, block.seeds[0], prompts)
    return Round(plan, settings, block.seeds[0], 1, prompts, base, base)


def checkpoint(experiment: Experiment, model: str) -> str:
    """Folder of the cell that makes an entry of pretrain.models."""
    plan, settings = Plan(experiment), experiment.arm(experiment.experiment.arms[0])
    prompts = plan.prompts(settings.prepare)
    return plan.model(model, settings, experiment.experiment.seeds[0], prompts)


def upstream(plan: dict[str, Any]) -> dict[str, set[str]]:
    """Each cell by its name in DVC (GROUP@KEY) with the names of the cells that it reads.

    In dependency order.
    """
    groups = {name: plan["cells"][name] for name in GROUPS}
    names = {key: f"{group}@{key}" for group, own in groups.items() for key in own}
    reads = {}
    for group, own in groups.items():
        for key, cell in own.items():
            inputs = [str(v).rpartition("/")[2] for k, v in cell.items() if k != "params"]
            reads[names[key]] = {names[i] for i in inputs if i in names}
            if group == "report":
                reads[names[key]] = set(names.values()) - {names[key]}
    return {name: reads[name] for name in graphlib.TopologicalSorter(reads).static_order()}


class Plan:
    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.cells: Cells = {group: {} for group in GROUPS}
        self.arms: dict[str, Any] = {"base": {}}
        self.cap = budget_caps.cap(experiment)  # of experiment.match
        self.branches: dict[str, Any] = {}
        self.held_out: dict[str, Any] = {}

    def cell(self, group: str, resolved: dict[str, Any], **inputs: str) -> str:
        """Key of the cell, added if it is new."""
        content = {"params": resolved, **inputs}
        key = cells.name_of(group, content)
        content["code"] = variants.of(group, content).name  # derived, so no part of the key
        known = self.cells[group].setdefault(key, content)
        if known != content:
            raise UserError(f"two cells are called {group}.{key}. Change any number a little.")
        return key

    def arm(self, name: str, seed: int) -> dict[str, Any]:
        """The arm's rounds under one seed, expanded once."""
        rounds = self.arms.setdefault(name, {}).setdefault(f"seed-{seed}", {})
        if rounds:
            return dict(rounds)
        settings = self.experiment.arm(name)
        if step_cells.size(self.experiment) > 1:
            rounds |= step_cells.arm(self, name, settings, seed)
            return dict(rounds)
        prompts, base = self.start(settings, seed)
        policy = base
        branched = name == METHOD and self.experiment.experiment.branch
        for round_ in range(1, self.experiment.experiment.rounds + 1):
            arm = Round(self, settings, seed, round_, prompts, base, policy)
            keys = arm.train()
            policy = f"data/train/{keys['train']}"
            last = round_ == self.experiment.experiment.rounds
            if last or branched or settings.evaluate.rounds == "all":
                keys |= self.evaluate(settings, seed, round_, prompts, policy)
            rounds[f"round-{round_}"] = keys
        return dict(rounds)

    def branch(self, control: str, seed: int) -> None:
        """Each round of omniopd trained and evaluated once more, with the control's scores.

        From the round's own checkpoint, rollouts and forks, so these are the same cells; listed
        are those that differ. The next round begins from omniopd's checkpoint again.
        """
        settings = self.experiment.branch(control)
        prompts, base = self.start(settings, seed)
        policy, rounds = base, {}
        for round_, (name, real) in enumerate(self.arm(METHOD, seed).items(), 1):
            keys = Round(self, settings, seed, round_, prompts, base, policy).train()
            policy = f"data/train/{keys['train']}"
            keys |= self.evaluate(settings, seed, round_, prompts, policy)
            rounds[name] = {stage: key for stage, key in keys.items() if key != real.get(stage)}
            policy = f"data/train/{real['train']}"
        self.branches.setdefault(control, {})[f"seed-{seed}"] = rounds

    def start(self, settings: Settings, seed: int) -> tuple[str, str]:
        """The problems' cell and the base student's folder: what round 1 begins from."""
        prompts = self.prompts(settings.prepare)
        base = self.model(self.experiment.experiment.student, settings, seed, prompts)
        self.base(settings, seed, prompts, base)
        return prompts, base

    def prompts(self, prepare: TaskPrepare) -> str:
        inputs = {"task": file_of(prepare.task)}
        match prepare.rows:
            case None:
                group = "prepare"
            case "":
                group = "prepare-hub"
            case rows:
                group = "prepare-rows"
                inputs["rows"] = rows
        return self.cell(group, {"prepare": prepare.resolved()}, **inputs)

    def base(self, settings: Settings, seed: int, prompts: str, policy: str) -> None:
        """The untrained student as round 0 of arm base, evaluated as the base blocks say."""
        if f"seed-{seed}" not in self.arms["base"]:
            own = {"policy": policy} | self.evaluate(settings, seed, 0, prompts, policy)
            self.arms["base"][f"seed-{seed}"] = {"round-0": own}

    def evaluate(
        self, settings: Settings, seed: int, round_: int, prompts: str, policy: str
    ) -> dict[str, str]:
        """The cell that looks at the checkpoint after a round, by its stage.

        Where no task can grade, the checkpoint answers prompts and no more. So the report, which
        reads evaluations and rollouts, comes after every train cell without reading weights.
        """
        if not settings.prepare.graded:
            if round_ < self.experiment.experiment.rounds:  # those are the next round's rollouts
                return {}
            return Round.after(self, settings, seed, round_, prompts, policy)
        resolved = dump(settings.evaluate)
        for key in ("rounds", *held_out.ASKED):
            resolved.pop(key, None)
        if resolved["engine"] == "hf":  # cells of the time before there was a choice
            del resolved["engine"]
        prepare = settings.prepare
        resolved["prepare"] = prepare.resolved()
        stage = engined("evaluate", settings.evaluate.engine)
        task, group = file_of(prepare.task), sandboxed(stage, prepare)
        key = self.cell(group, resolved, prompts=prompts, policy=policy, task=task)
        return {"evaluate": key}

    def model(self, name: str, settings: Settings, seed: int, prompts: str) -> str:
        """Folder of a pretrained model. Only the student may differ between seeds."""
        model = settings.pretrain.models[name]
        own = settings.pretrain.per_seed and name == self.experiment.experiment.student
        resolved = {
            "model": {k: v for k, v in dump(model).items() if k != "shape"},
            "prepare": settings.prepare.resolved(),
            "seed": seed if own else 0,
        }
        task = file_of(settings.prepare.task)
        if isinstance(model.init, ModelInit):
            start = self.model(model.init.name, settings, seed, prompts)
            key = self.cell("pretrain-more", resolved, prompts=prompts, start=start, task=task)
        else:
            source = "characters" if isinstance(model.init, LlamaInit) else "pretrained"
            key = self.cell("pretrain", resolved, prompts=prompts, task=task, source=source)
        return f"data/pretrain/{key}"

    def report_params(self) -> dict[str, Any]:
        experiment = self.experiment.experiment
        first = self.experiment.arm(experiment.arms[0])
        claims = {} if experiment.claims is None else {"claims": dict(experiment.claims)}
        return (
            claims
            | {
                "arms": self.arms,
                "branches": self.branches,
                **({"held_out": self.held_out} if self.held_out else {}),
                "settings": {name: method(self.experiment.arm(name)) for name in experiment.arms},
                "sampled_k": first.evaluate.samples,
                "split": first.evaluate.split,
                "per_seed": first.pretrain.per_seed,
                "notes": list(experiment.notes),
            }
            | who(self.experiment, self.prompts(first.prepare))
            | budget_caps.summary(self.experiment, self.cap)
        )
