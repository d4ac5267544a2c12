"""params.yaml expanded into cells: every stage of every round, arm and seed, named by content.

A cell's key is `c` and 8 hex digits of the hash of its stage, its resolved params and the cells
it reads. Arms that agree up to some point share cells up to there. Pure, but for the files of
problems that params name: the hash of their content is part of a cell.
"""

import graphlib
import hashlib
import json
from typing import Any

from pipeline import ceilings, params
from pipeline.errors import UserError
from pipeline.experiment import UNTRACKED, Experiment, Settings
from pipeline.params import METHOD, file_of

GROUPS = (  # in data-flow order; dvc.yaml has a foreach for each, so all are always in the plan
    "prepare",
    "prepare-rows",
    "prepare-hub",
    "pretrain",
    "pretrain-more",
    "rollout",
    "rollout-sandbox",
    "forks",
    "forks-student",
    "teach",
    "teach-solutions",
    "teach-hosted",
    "teach-hosted-solutions",
    "score",
    "score-zero",
    "prior",
    "prior-control",
    "prior-none",
    "prior-teacher",
    "prior-2",
    "prior-3",
    "prior-4",
    "calibrate",
    "train",
    "train-matched",
    "train-agreement",
    "train-opd",
    "train-opd-forks",
    "train-grpo",
    "train-sft",
    "train-imitate-forks",
    "evaluate",
    "evaluate-sandbox",
    "report",
)
Cells = dict[str, dict[str, dict[str, Any]]]  # group: key: {params, inputs...}
FIXED = ("kind", "provider", "model", "tokenizer")  # of a hosted teacher: what it is, not where
ONLY_FOR = {  # train settings that some objectives do not read
    "beta": {"omniopd", "imitate-forks", "opd-forks"},
    "correction": {"omniopd", "opd-sampled", "rft"},
    "answers": {"imitate-forks"},
    "jsd_beta": {"gkd"},
    "baseline": {"omniopd"},
    "anchor": {"omniopd", "imitate-forks", "opd-forks"},
}
GROUP_OF = {  # of a train cell by its objective; those that read the same inputs share one
    "omniopd": "train",
    "opd-sampled": "train-opd",
    "gkd": "train-opd",
    "rft": "train-grpo",
}


def expand(experiment: Experiment) -> dict[str, Any]:
    """The content of plan.yaml: {cells: {GROUP: {KEY: cell}, arms: {ARM: {seed-S: ...}}}}.

    A group is a stage, or a stage and a dash where some of its cells read other inputs. Beside
    `arms`, `branches` maps each control of experiment.branch to its own cells of the rounds of
    omniopd. All lies under one key because DVC merges equal keys of params.yaml and plan.yaml.
    """
    plan = _Plan(experiment)
    for seed in experiment.experiment.seeds:
        for name in experiment.experiment.arms:
            plan.arm(name, seed)
        for name in experiment.experiment.branch:
            plan.branch(name, seed)
    plan.cell("report", plan.report_params())
    return {"cells": {**plan.cells, "arms": plan.arms, "branches": plan.branches}}


def named(plan: dict[str, Any]) -> dict[str, Any]:
    """Rounds by arm, and those of a branch, with the cells that it adds, as omniopd+CONTROL."""
    branches = plan["cells"]["branches"].items()
    return {**plan["cells"]["arms"], **{f"{METHOD}+{name}": found for name, found in branches}}


def audited(experiment: Experiment, arm: str) -> dict[str, Any]:
    """What `omniopd audit` runs: round 1 of an arm up to its targets and calibration, no training.

    Of the same form as the plan of an experiment.
    """
    plan, settings = _Plan(experiment), experiment.arm(arm)
    seed = experiment.experiment.seeds[0]
    prompts = plan.prompts(settings.prepare)
    base = plan.model(experiment.experiment.student, settings, seed, prompts)
    first = _Round(plan, settings, seed, 1, prompts, base, base)
    first.prior()
    first.calibrate()
    plan.arms = {
        "base": {f"seed-{seed}": {"round-0": {"policy": base}}},
        arm: {f"seed-{seed}": {"round-1": first.found}},
    }
    return {"cells": {**plan.cells, "arms": plan.arms, "branches": {}}}


def checkpoint(experiment: Experiment, model: str) -> str:
    """Folder of the cell that makes an entry of pretrain.models."""
    plan, settings = _Plan(experiment), experiment.arm(experiment.experiment.arms[0])
    prompts = plan.prompts(settings.prepare)
    return plan.model(model, settings, experiment.experiment.seeds[0], prompts)


def method(settings: Settings) -> dict[str, Any]:
    """What the report prints of an arm: every number of the method."""
    blocks = ("rollout", "forks", "teach", "score", "prior", "train")
    found = {name: _tracked(settings, name) for name in blocks}
    return {"prepare": _dump(settings.prepare), **found}


def upstream(plan: dict[str, Any]) -> dict[str, set[str]]:
    """Each cell by its name in DVC (GROUP@KEY) with the names of the cells that it reads.

    In dependency order.
    """
    groups = {name: plan["cells"][name] for name in GROUPS}
    names = {key: f"{group}@{key}" for group, found in groups.items() for key in found}
    reads = {}
    for group, found in groups.items():
        for key, cell in found.items():
            inputs = [str(v).rpartition("/")[2] for k, v in cell.items() if k != "params"]
            reads[names[key]] = {names[i] for i in inputs if i in names}
            if group == "report":
                reads[names[key]] = set(names.values()) - {names[key]}
    return {name: reads[name] for name in graphlib.TopologicalSorter(reads).static_order()}


class _Plan:
    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.cells: Cells = {group: {} for group in GROUPS}
        self.arms: dict[str, Any] = {"base": {}}
        self.cap = ceilings.cap(experiment)  # of experiment.match
        self.branches: dict[str, Any] = {}

    def cell(self, group: str, resolved: dict[str, Any], **inputs: str) -> str:
        """Key of the cell, added if it is new."""
        content = {"params": resolved, **inputs}
        canonical = json.dumps([group, content], sort_keys=True)
        key = "c" + hashlib.sha256(canonical.encode()).hexdigest()[:8]
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
        prompts, base = self.start(settings, seed)
        policy = base
        branched = name == METHOD and self.experiment.experiment.branch
        for round_ in range(1, self.experiment.experiment.rounds + 1):
            arm = _Round(self, settings, seed, round_, prompts, base, policy)
            found = arm.train()
            policy = f"data/train/{found['train']}"
            last = round_ == self.experiment.experiment.rounds
            if last or branched or settings.evaluate.rounds == "all":
                found["evaluate"] = self.evaluate(settings, prompts, policy)
            rounds[f"round-{round_}"] = found
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
            found = _Round(self, settings, seed, round_, prompts, base, policy).train()
            found["evaluate"] = self.evaluate(settings, prompts, f"data/train/{found['train']}")
            rounds[name] = {stage: key for stage, key in found.items() if key != real.get(stage)}
            policy = f"data/train/{real['train']}"
        self.branches.setdefault(control, {})[f"seed-{seed}"] = rounds

    def start(self, settings: Settings, seed: int) -> tuple[str, str]:
        """The problems' cell and the base student's folder: what round 1 begins from."""
        prompts = self.prompts(settings.prepare)
        base = self.model(self.experiment.experiment.student, settings, seed, prompts)
        self.base(settings, seed, prompts, base)
        return prompts, base

    def prompts(self, prepare: params.TaskPrepare) -> str:
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
            key = self.evaluate(settings, prompts, policy)
            self.arms["base"][f"seed-{seed}"] = {"round-0": {"policy": policy, "evaluate": key}}

    def evaluate(self, settings: Settings, prompts: str, policy: str) -> str:
        resolved = _dump(settings.evaluate)
        del resolved["rounds"]
        prepare = settings.prepare
        if not prepare.graded:
            raise UserError(
                f"prepare.task: found {prepare.task!r}, wanted a task with a checker: every arm is "
                "evaluated. Use another task; `omniopd audit` needs no checker."
            )
        resolved["prepare"] = prepare.resolved()
        task, group = file_of(prepare.task), _sandboxed("evaluate", prepare)
        return self.cell(group, resolved, prompts=prompts, policy=policy, task=task)

    def model(self, name: str, settings: Settings, seed: int, prompts: str) -> str:
        """Folder of a pretrained model. Only the student may differ between seeds."""
        model = settings.pretrain.models[name]
        own = settings.pretrain.per_seed and name == self.experiment.experiment.student
        resolved = {
            "model": _dump(model),
            "prepare": settings.prepare.resolved(),
            "seed": seed if own else 0,
        }
        task = file_of(settings.prepare.task)
        if isinstance(model.init, params.ModelInit):
            start = self.model(model.init.name, settings, seed, prompts)
            key = self.cell("pretrain-more", resolved, prompts=prompts, start=start, task=task)
        else:
            source = "characters" if isinstance(model.init, params.LlamaInit) else "pretrained"
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
                "settings": {name: method(self.experiment.arm(name)) for name in experiment.arms},
                "sampled_k": first.evaluate.samples,
                "split": first.evaluate.split,
                "per_seed": first.pretrain.per_seed,
                "notes": list(experiment.notes),
            }
            | ceilings.summary(self.experiment, self.cap)
        )


class _Round:
    """The cells of one round of one arm under one seed."""

    def __init__(
        self,
        plan: _Plan,
        settings: Settings,
        seed: int,
        round_: int,
        prompts: str,
        base: str,
        policy: str,
    ) -> None:
        self.plan, self.settings, self.prompts = plan, settings, prompts
        self.base, self.policy = base, policy
        self.where = {"seed": seed, "round": round_}
        self.found: dict[str, str] = {}

    def train(self) -> dict[str, str]:
        """Every cell of the round by stage, `train` last."""
        objective = self.settings.train.objective
        one = self.settings.teach.teachers[0]  # objectives other than omniopd have one teacher
        inputs = {"policy": self.policy, "objective": file_of(objective)}
        group = GROUP_OF.get(objective, f"train-{objective}")
        match objective:
            case "omniopd":
                prior = self.prior()
                self.calibrate()
                inputs |= {"rollouts": self.rollout(), "targets": prior, "reference": self.base}
                if self.settings.train.baseline == "teacher-agreement":
                    metric = file_of(self.settings.score.metric)
                    inputs |= {"answers": self.teach(one), "similarity": metric}
                    group = "train-agreement"
            case "opd" | "opd-sampled" | "gkd":
                inputs |= {"rollouts": self.rollout(), "teacher": self.teacher(one)}
            case "opd-forks":
                inputs |= {"rollouts": self.rollout(), "forks": self.forks()}
                inputs |= {"teacher": self.teacher(one), "reference": self.base}
            case "grpo" | "rft":
                inputs |= {"rollouts": self.rollout()}
            case "sft":
                inputs |= {"prompts": self.prompts, "answers": self.solutions(one)}
            case "imitate-forks":
                inputs |= {"rollouts": self.rollout(), "forks": self.forks()}
                inputs |= {"answers": self.teach(one), "reference": self.base}
        capped = ceilings.matched(self.plan.experiment, self.settings, self.plan.cap)
        if group == "train" and objective == "omniopd" and capped.get("match") in ceilings.PRICED:
            group, inputs["answers"] = "train-matched", self._answers()
        self.found["train"] = self.plan.cell(group, self._train_params() | capped, **inputs)
        return self.found

    def _answers(self) -> str:
        """What the targets were made from: own answers, or those of the arm that it controls."""
        if self.settings.prior.controls is None:
            return self.teach(self.settings.teach.teachers[0])
        rounds = self.plan.arm(self.settings.prior.controls, self.where["seed"])
        return str(rounds[f"round-{self.where['round']}"]["teach"])

    def _train_params(self) -> dict[str, Any]:
        block = self.settings.train
        kept = {
            name: value
            for name, value in _dump(block).items()
            if block.objective in ONLY_FOR.get(name, {block.objective})
        }
        if kept.get("baseline") == "teacher-agreement":
            kept["metric"] = self.settings.score.metric
            kept["samples"] = self.settings.teach.samples
        kept["prompts_per_round"] = self.settings.rollout.prompts_per_round
        return kept | self.where

    def rollout(self) -> str:
        prepare = self.settings.prepare
        resolved = _dump(self.settings.rollout) | {"prepare": prepare.resolved()} | self.where
        inputs = {"prompts": self.prompts, "policy": self.policy, "task": file_of(prepare.task)}
        return self._add(_sandboxed("rollout", prepare), "rollout", resolved, **inputs)

    def forks(self) -> str:
        resolved = _dump(self.settings.forks) | self.where
        inputs = {"rollouts": self.rollout(), "student": self.base}
        if resolved["scheduler"] == "embedding-variance":
            return self._add("forks-student", "forks", resolved, **inputs, policy=self.policy)
        del resolved["continuations"]
        scheduler = file_of(resolved["scheduler"])
        return self._add("forks", "forks", resolved, **inputs, scheduler=scheduler)

    def teacher(self, name: str) -> str:
        """Folder of a local teacher."""
        teacher = self.plan.experiment.teachers[name]
        assert isinstance(teacher, params.LocalTeacher)
        seed = self.where["seed"]
        return self.plan.model(teacher.model, self.settings, seed, self.prompts)

    def _teach_params(self, name: str) -> dict[str, Any]:
        teacher = self.plan.experiment.teachers[name]
        who: dict[str, Any] = {"teacher": name, "kind": teacher.kind}
        if not isinstance(teacher, params.LocalTeacher):
            who |= {field: getattr(teacher, field) for field in FIXED}
            who = {field: value for field, value in who.items() if value is not None}
        return (
            _tracked(self.settings, "teach")
            | who
            | {
                "round": self.where["round"],
                "prompts_per_round": self.settings.rollout.prompts_per_round,
            }
        )

    def teach(self, name: str) -> str:
        """The answers of one teacher at the round's forks."""
        resolved = self._teach_params(name) | {"chunk_tokens": self.settings.forks.chunk_tokens}
        inputs = {"rollouts": self.rollout(), "forks": self.forks()}
        return self._teach("teach", name, resolved, **inputs)

    def solutions(self, name: str) -> str:
        """Full solutions of the round's prompts: no rollout is read."""
        longest = {"chunk_tokens": self.settings.rollout.max_new_tokens}
        return self._teach("solutions", name, self._teach_params(name) | longest)

    def _teach(self, what: str, name: str, resolved: dict[str, Any], **inputs: str) -> str:
        inputs |= {"prompts": self.prompts, "student": self.base, "kind": resolved["kind"]}
        group = "teach" if resolved["kind"] == "local" else "teach-hosted"
        if resolved["kind"] == "local":
            inputs["teacher"] = self.teacher(name)
        if what == "solutions":
            group += "-solutions"
        return self._add(group, self._named("teach", name), resolved, **inputs)

    def _named(self, stage: str, teacher: str) -> str:
        """How an arm's links call a stage that it has once for each of several teachers."""
        return stage if len(self.settings.teach.teachers) == 1 else f"{stage}-{teacher}"

    def score(self, name: str) -> str:
        resolved = _dump(self.settings.score) | self.where
        resolved["samples"] = self.settings.teach.samples
        resolved["teacher"] = name
        if resolved["source"] != "shuffled":
            del resolved["within"]
        stage = self._named("score", name)
        if resolved["source"] == "zero":
            return self._add("score-zero", stage, resolved, forks=self.forks())
        inputs = {"rollouts": self.rollout(), "forks": self.forks(), "answers": self.teach(name)}
        metric = file_of(resolved["metric"])
        return self._add("score", stage, resolved, **inputs, similarity=metric)

    def prior(self) -> str:
        resolved = _dump(self.settings.prior) | self.where
        resolved["samples"] = self.settings.teach.samples
        inputs = {"rollouts": self.rollout(), "forks": self.forks()}
        teachers = self.settings.teach.teachers
        if len(teachers) == 1:
            resolved.pop("combine", None)
        match resolved["source"]:
            case "scores" if len(teachers) > 1:
                scores = {f"scores{i}": self.score(name) for i, name in enumerate(teachers, 1)}
                return self._add(f"prior-{len(teachers)}", "prior", resolved, **inputs, **scores)
            case "scores":
                scores = {"scores": self.score(teachers[0])}
                return self._add("prior", "prior", resolved, **inputs, **scores)
            case "none":
                return self._add("prior-none", "prior", resolved, **inputs)
            case "teacher":
                inputs |= {"teacher": self.teacher(teachers[0]), "student": self.base}
                return self._add("prior-teacher", "prior", resolved, **inputs)
        rounds = self.plan.arm(resolved["controls"], self.where["seed"])
        controlled = rounds[f"round-{self.where['round']}"]["prior"]
        return self._add("prior-control", "prior", resolved, **inputs, controlled=controlled)

    def calibrate(self) -> None:
        """What the round's answers can tell; nothing of it is trained on."""
        block, round_ = self.settings.calibrate, self.where["round"]
        wanted = block.rounds == "all" or (block.rounds == "first" and round_ == 1)
        scored = self.settings.prior.source == "scores" and self.settings.score.source != "zero"
        if not (wanted and scored):
            return
        forks = self.settings.forks
        resolved = {
            "metrics": list(block.metrics),
            "lengths": list(block.lengths(forks.chunk_tokens)),
            "alphas": list(block.alphas),
            "forks": block.forks,
            "scheduler": forks.scheduler,
            "max_forks": forks.max_forks,
            "chunk_tokens": forks.chunk_tokens,
            "samples": self.settings.teach.samples,
            **self.where,
        }
        inputs = {"rollouts": self.rollout(), "forks": self.forks(), "student": self.base}
        for name in self.settings.teach.teachers:
            answers = self.teach(name)
            stage = self._named("calibrate", name)
            self._add("calibrate", stage, resolved | {"teacher": name}, **inputs, answers=answers)

    def _add(self, group: str, stage: str, resolved: dict[str, Any], **inputs: str) -> str:
        self.found[stage] = self.plan.cell(group, resolved, **inputs)
        return self.found[stage]


def _dump(block: params.Params) -> dict[str, Any]:
    return block.model_dump(mode="json", exclude_none=True)


def _tracked(settings: Settings, block: str) -> dict[str, Any]:
    """A block without what cannot change a result."""
    found = _dump(getattr(settings, block))
    return {key: value for key, value in found.items() if key not in UNTRACKED.get(block, ())}


def _sandboxed(stage: str, prepare: params.TaskPrepare) -> str:
    """Group of a stage that grades."""
    return f"{stage}-sandbox" if prepare.sandboxed else stage
