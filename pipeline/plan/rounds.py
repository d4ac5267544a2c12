"""The cells of one round of one arm: what each stage reads, and its resolved params."""

from typing import Any, Protocol

from pipeline.config.method import Gate, Optimised, Placed
from pipeline.config.renamed import in_cells
from pipeline.config.teachers import LocalTeacher
from pipeline.core.chosen import file_of
from pipeline.method.adaptive import least
from pipeline.method.objectives import declared, own
from pipeline.method.similarity import OF_IDS
from pipeline.plan import budget_caps
from pipeline.plan.blocks import Experiment, Settings
from pipeline.plan.resolved import dump, engined, own_answers, sandboxed, scored, tracked
from pipeline.stage.run_records import AFTER, GATE

FIXED = ("kind", "provider", "model", "tokenizer")  # of a hosted teacher: what it is, not where


class Cells(Protocol):
    """Where the cells of a round are put."""

    experiment: Experiment
    cap: float | None  # of experiment.match

    def cell(self, group: str, resolved: dict[str, Any], **inputs: str) -> str:
        """Key of the cell, added if it is new."""
        ...

    def arm(self, name: str, seed: int) -> dict[str, Any]:
        """Another arm's rounds under one seed."""
        ...

    def model(self, name: str, settings: Settings, seed: int, prompts: str) -> str:
        """Folder of a pretrained model."""
        ...


class Round:
    """The cells of one round of one arm under one seed."""

    def __init__(
        self,
        plan: Cells,
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
        self.objective = declared(settings.train.objective)
        self.also = self.objective.also(own(settings.train, self.objective.settings))
        self.asked = dump(settings.teach)["samples"]  # N, as cells hold it

    @classmethod
    def after(
        cls, plan: Cells, settings: Settings, seed: int, round_: int, prompts: str, policy: str
    ) -> dict[str, str]:
        """The rollouts of the checkpoint that a round ends with, by AFTER.

        On the next round's prompts, or where those are too few on the round's own again. Those of
        another trainer are not read here: the student answers itself.
        """
        size, pool = settings.rollout.prompts_per_round, settings.prepare.train
        asked = round_ + 1 if (round_ + 1) * size <= pool else round_
        settings = own_answers(settings)
        return {AFTER: cls(plan, settings, seed, asked, prompts, policy, policy).rollout()}

    def train(self) -> dict[str, str]:
        """Every cell of the round by stage, `train` last."""
        name = self.settings.train.objective
        inputs = {"policy": self.policy, "objective": file_of(name)}
        # in the order of a cell's file, of which DVC compares the bytes
        for read in self.objective.reads:
            inputs |= self._input(read)
        if self.objective.teacher:  # objectives that read no targets have one teacher
            inputs["teacher"] = self.teacher(self.settings.teach.teachers[0])
        if self.objective.reference:
            inputs["reference"] = self.base
        for read in self.also:
            inputs |= self._input(read)
        group = "train-agreement" if "similarity" in self.also else self.objective.group
        capped = budget_caps.matched(self.plan.experiment, self.settings, self.plan.cap)
        priced = capped.get("match") in budget_caps.PRICED
        if priced and "targets" in self.objective.reads and "answers" not in inputs:
            group, inputs["answers"] = "train-matched", self._answers()
        self.found["train"] = self.plan.cell(group, self._train_params() | capped, **inputs)
        return self.found

    def _input(self, read: str) -> dict[str, str]:
        """What a train cell is handed of what its objective reads."""
        teacher = self.settings.teach.teachers[0]
        match read:
            case "prompts":
                return {"prompts": self.prompts}
            case "rollouts":
                return {"rollouts": self.rollout()}
            case "snapshot":
                return {"rollouts": self.rollout(self.base)}
            case "repaired":
                return {"rollouts": self.rollout(None, **self._audited(teacher))}
            case "forks":
                return {"forks": self.forks()}
            case "targets":
                targets = self.prior()
                self.calibrate()
                return {"targets": targets}
            case "answers":
                return {"answers": self.teach(teacher)}
            case "solutions":
                return {"answers": self.solutions(teacher)}
            case "similarity":
                return {"similarity": file_of(self.settings.score.metric)}
        raise ValueError(f"no objective reads {read}")

    def _answers(self) -> str:
        """What the targets were made from: own answers, or those of the arm that it controls."""
        if self.settings.prior.controls is None:
            return self.teach(self.settings.teach.teachers[0])
        rounds = self.plan.arm(self.settings.prior.controls, self.where["seed"])
        return str(rounds[f"round-{self.where['round']}"]["teach"])

    def _train_params(self) -> dict[str, Any]:
        read = {*in_cells(Optimised), *in_cells(self.objective.settings), "norms_every"}
        kept = {k: v for k, v in tracked(self.settings, "train").items() if k in read}
        if "similarity" in self.also:
            kept["metric"] = self.settings.score.metric
            kept["samples"] = self.settings.teach.most
        kept["prompts_per_round"] = self.settings.rollout.prompts_per_round
        return kept | self.where

    def rollout(self, policy: str | None = None, **repaired: str) -> str:
        prepare = self.settings.prepare
        resolved = tracked(self.settings, "rollout") | {"prepare": prepare.resolved()} | self.where
        policy = policy or self.policy
        inputs = {"prompts": self.prompts, "policy": policy, "task": file_of(prepare.task)}
        if repaired:
            return self._add("rollout-repair", "rollout-repair", resolved, **inputs, **repaired)
        stage = engined("rollout", self.settings.rollout.engine)
        return self._add(sandboxed(stage, prepare), "rollout", resolved, **inputs)

    def forks(self) -> str:
        resolved = dump(self.settings.forks) | self.where
        inputs = {"rollouts": self.rollout(), "student": self.base}
        if self.settings.forks.gate is not None:
            inputs["gate"] = self.gate(self.settings.forks.gate)
            resolved["gate"] = self.settings.forks.gate.least
        if resolved["scheduler"] == "embedding-variance":
            return self._add("forks-student", "forks", resolved, **inputs, policy=self.policy)
        del resolved["continuations"]
        scheduler = file_of(resolved["scheduler"])
        return self._add("forks", "forks", resolved, **inputs, scheduler=scheduler)

    def teacher(self, name: str) -> str:
        """Folder of a local teacher."""
        teacher = self.plan.experiment.teachers[name]
        assert isinstance(teacher, LocalTeacher)
        seed = self.where["seed"]
        return self.plan.model(teacher.model, self.settings, seed, self.prompts)

    def teach_params(self, name: str) -> dict[str, Any]:
        """Resolved params of a cell that asks a teacher, but for how long its answers are."""
        teacher = self.plan.experiment.teachers[name]
        who: dict[str, Any] = {"teacher": name, "kind": teacher.kind}
        if not isinstance(teacher, LocalTeacher):
            who |= {field: getattr(teacher, field) for field in FIXED}
            who = {field: value for field, value in who.items() if value is not None}
        elif teacher.engine != "hf":  # another engine continues otherwise from the same seed
            who["engine"] = teacher.engine
        if self.settings.teach.problem == "another":  # which one is drawn from the seed
            who["seed"] = self.where["seed"]
        where = {"round": self.where["round"]}
        where["prompts_per_round"] = self.settings.rollout.prompts_per_round
        return tracked(self.settings, "teach") | who | where

    def teach(self, name: str) -> str:
        """The answers of one teacher at the round's forks."""
        resolved = self.teach_params(name) | {"chunk_tokens": self.settings.answer_tokens}
        inputs = {"rollouts": self.rollout(), "forks": self.forks()}
        return self.taught("teach", name, resolved, **inputs)

    def gate(self, gate: Gate) -> str:
        """The grades of whole solutions of the round's prompts, bought before anything is asked."""
        name, longest = self.settings.teach.teachers[0], self.settings.rollout.max_new_tokens
        more = {"samples": gate.samples, "chunk_tokens": longest}
        resolved = self.teach_params(name) | more
        answers = self.taught("solutions", name, resolved, stage="teach-gate")
        return self._outcome(GATE, name, gate.samples, answers=answers)

    def solutions(self, name: str) -> str:
        """Full solutions of the round's prompts: no rollout is read."""
        longest = {"chunk_tokens": self.settings.rollout.max_new_tokens}
        return self.taught("solutions", name, self.teach_params(name) | longest)

    def taught(
        self, what: str, name: str, resolved: dict[str, Any], stage: str = "", **inputs: str
    ) -> str:
        """A cell of a teacher's answers; `what`: teach, solutions or judge."""
        inputs |= {"prompts": self.prompts, "student": self.base, "kind": resolved["kind"]}
        group = "teach" if resolved["kind"] == "local" else "teach-hosted"
        if resolved["kind"] == "local":
            inputs["teacher"] = self.teacher(name)
            group = engined(group, resolved.get("engine", "hf"))
        if what != "teach":
            group += f"-{what}"
        return self._add(group, stage or self._named("teach", name), resolved, **inputs)

    def _named(self, stage: str, teacher: str) -> str:
        """How an arm's links call a stage that it has once for each of several teachers."""
        return stage if len(self.settings.teach.teachers) == 1 else f"{stage}-{teacher}"

    def _outcome(self, stage: str, name: str, samples: Any, **inputs: str) -> str:
        """Whether each of a teacher's answers ends right."""
        prepare = self.settings.prepare
        resolved = {
            "metric": "outcome",
            "source": "outcome",
            "allow_flat": True,
            "teacher": name,
            "samples": samples,
            "prompts_per_round": self.settings.rollout.prompts_per_round,
            "prepare": prepare.resolved(),
            **self.where,
        }
        inputs |= {"prompts": self.prompts, "task": file_of(prepare.task)}
        return self._add("score-outcome", stage, resolved, **inputs)

    def _audited(self, name: str) -> dict[str, str]:
        return {"rollouts": self.rollout(), "forks": self.forks(), "answers": self.teach(name)}

    def score(self, name: str) -> str:
        stage = self._named("score", name)
        if self.settings.score.source == "outcome":
            return self._outcome(stage, name, self.asked, **self._audited(name))
        resolved = scored(self.settings) | self.where
        resolved |= {"samples": self.asked, "teacher": name}
        if resolved["source"] != "shuffled":
            del resolved["within"]
        if resolved["source"] == "zero":
            return self._add("score-zero", stage, resolved, forks=self.forks())
        inputs = self._audited(name) | {"similarity": file_of(resolved["metric"])}
        if resolved["metric"] in OF_IDS:
            return self._add("score-ids", stage, resolved, **inputs, student=self.base)
        return self._add("score", stage, resolved, **inputs)

    def prior(self) -> str:
        resolved = tracked(self.settings, "prior") | self.where
        resolved["samples"] = self.asked
        inputs = {"rollouts": self.rollout(), "forks": self.forks()}
        teachers = self.settings.teach.teachers
        if len(teachers) == 1:
            resolved.pop("combine", None)
        match resolved["source"]:
            case "scores" | "shuffled-weights" if len(teachers) > 1:
                scores = {f"scores{i}": self.score(name) for i, name in enumerate(teachers, 1)}
                return self._add(f"prior-{len(teachers)}", "prior", resolved, **inputs, **scores)
            case "scores" | "shuffled-weights":
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
        compared = self.settings.score.source in ("similarity", "shuffled")
        if not (wanted and compared and self.settings.prior.of_scores):
            return
        forks = self.settings.forks
        resolved = {
            "metrics": list(block.metrics),
            "lengths": list(block.lengths(forks.chunk_tokens)),
            "alphas": list(block.alphas),
            "forks": block.forks,
            **{name: getattr(forks, name) for name in Placed.model_fields},
            "samples": least(self.settings.teach.samples),
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
