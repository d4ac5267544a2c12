"""`omniopd estimate`: the cells of a plan that run a model, and what each takes.

A response is taken to be as long as allowed, unless finished rollouts have shown how long they
are. Everything is for the whole plan, cells that are done included.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.commands.estimate import footprint
from pipeline.commands.estimate.estimate import DATA, problem_tokens, settings_of
from pipeline.commands.estimate.footprint import Cost, Parts, Rows, Training
from pipeline.config.method import Train
from pipeline.config.teachers import LocalTeacher
from pipeline.method import elsewhere
from pipeline.method.objectives import declared
from pipeline.plan import budget_caps, expand, model_shapes, step_cells
from pipeline.plan.blocks import Experiment, Settings
from pipeline.plan.model_shapes import Size
from pipeline.runner import retention
from pipeline.stage.run_records import rounds

ROW = 120  # bytes of a row of a table without its text and tokens: a guess
TOKEN = 4  # bytes of a token's text, and of each number that is kept of it


@dataclass(frozen=True)
class Cell:
    label: str
    folder: Path
    cost: Cost = field(default_factory=Cost)
    memory: dict[str, Parts] = field(default_factory=dict)  # by what the stage does at that time
    cache: dict[str, float] = field(default_factory=dict)  # bytes of outs: weights, moments, tables

    @property
    def run(self) -> dict[str, Any]:
        """Its run.json; empty if it has not run."""
        path = self.folder / "run.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


class Experimental:
    """Sizes and lengths that the cells of one experiment share."""

    def __init__(self, experiment: Experiment, expanded: dict[str, Any]) -> None:
        self.experiment, self.steps = experiment, step_cells.size(experiment)
        arms = expanded["cells"]["arms"]
        self.rollouts = {own["rollout"] for *_, own in rounds(arms) if "rollout" in own}
        if self.steps > 1:  # the same work, a cell a round; round 1 of arms as if they shared it
            expanded = expand.expand(step_cells.single(experiment))
        self.plan = expanded["cells"]
        self.groups = {key: group for group in expand.GROUPS for key in self.plan[group]}
        self.sizes: dict[str, Size] = {}  # by folder of the cell that makes the model
        self.names: dict[str, str] = {}
        self._models()
        prepared = next(iter(f"{key}" for g in expand.GROUPS[:3] for key in self.plan[g]))
        self.prompt = problem_tokens(DATA / "prepare" / prepared / "prompts.parquet")
        self.measured = self._measured()

    def _models(self) -> None:
        models = self.experiment.pretrain.models
        for arm in self.experiment.experiment.arms:
            own, settings = expand.Plan(self.experiment), self.experiment.arm(arm)
            for name in settings.pretrain.models:
                for seed in self.experiment.experiment.seeds:
                    folder = own.model(name, settings, seed, own.prompts(settings.prepare))
                    if folder not in self.sizes and folder.rpartition("/")[2] in self.groups:
                        size = model_shapes.size(
                            models, self.experiment.prepare, name, Path(folder)
                        )
                        self.sizes[folder] = size
                        self.names[folder] = name

    def _measured(self) -> float | None:
        """Tokens of a response in rollouts that are done."""
        runs = [Cell("", DATA / "rollout" / key).run for key in sorted(self.rollouts)]
        runs = [run for run in runs if run.get("student_tokens")]
        rows = sum(run["rows_out"] for run in runs)
        return sum(run["student_tokens"] for run in runs) / rows if rows else None

    def rows(self, count: int, most: int) -> Rows:
        return Rows(count, self.prompt, min(most, self.measured or most))

    @property
    def student(self) -> Size:
        name = self.experiment.experiment.student
        return next(size for folder, size in self.sizes.items() if self.names[folder] == name)

    def cells(self) -> Iterator[Cell]:
        """Each cell that runs a model once, and each that makes a table."""
        for folder, size in self.sizes.items():
            yield self._pretrain(folder, size)
        seen = set[str]()
        named = expand.named({"cells": self.plan})
        for arm, seeds in named.items():
            for own in seeds.values():
                last = max(int(name.removeprefix("round-")) for name in own)
                for name, stages in own.items():
                    for stage, key in stages.items():
                        if key in self.groups and key not in seen:
                            seen.add(key)
                            settings = self._settings(arm, stage)
                            round_ = int(name.removeprefix("round-"))
                            yield self._cell(key, settings, self._kept(round_, last))

    @functools.cache  # noqa: B019 - as long as the estimate
    def _settings(self, arm: str, stage: str) -> Settings:
        return settings_of(self.experiment, arm, stage)

    def _kept(self, round_: int, last: int) -> bool:
        """Whether a checkpoint is written after a round, and stays."""
        ends = round_ % self.steps == 0 or round_ == last
        return ends and retention.keeps(self.experiment.experiment.keep_checkpoints, round_, last)

    def _pretrain(self, folder: str, size: Size) -> Cell:
        model = self.experiment.pretrain.models[self.names[folder]]
        rows = Rows(
            model.batch_size if model.steps else 0,
            self.prompt,
            self.experiment.rollout.max_new_tokens,
        )
        train = Training(rows._replace(number=rows.number * model.steps), 1, None, 32)
        parts = footprint.pretraining(size, rows, self.experiment.runtime)
        runtime = self.experiment.runtime.model_copy(update={"gradient_checkpointing": False})
        cost = footprint.trained(size, train, runtime)
        name = f"pretrain {self.names[folder]}"
        cache = {"imported or pretrained weights": float(size.weights * size.width)}
        memory = {name: footprint.with_process(parts, runtime)}
        return Cell(name, Path(folder), cost, memory, cache)

    def _cell(self, key: str, settings: Settings, kept: bool) -> Cell:
        group = self.groups[key]
        stage, folder = group.partition("-")[0], DATA / group.partition("-")[0] / key
        match stage:
            case "rollout":
                return self._rollout(folder, settings)
            case "evaluate":
                return self._evaluate(folder, settings)
            case "teach":
                return self._teach(folder, group, self.plan[group][key], settings)
            case "train":
                teacher = self.plan[group][key].get("teacher")
                return self._train(folder, settings, teacher, kept)
            case "forks":
                tables = budget_caps.prefixes(settings) * (
                    ROW + TOKEN * settings.rollout.max_new_tokens / 2
                )
            case "score":
                tables = budget_caps.prefixes(settings) * settings.teach.most * ROW
            case _:
                tables = 0.0
        return Cell(stage, folder, cache={"tables": tables})

    def _rollout(self, folder: Path, settings: Settings) -> Cell:
        block, runtime, size = settings.rollout, self.experiment.runtime, self.student
        rows = self.rows(block.prompts_per_round * block.samples_per_prompt, block.max_new_tokens)
        read, each = rows, block.samples_per_prompt
        if block.exact == "engine":  # which says itself what it sampled; some rows are checked
            read, each = rows._replace(number=elsewhere.count(rows.number)), 1
        cost = footprint.sampled(size, rows, block.engine, runtime)
        cost += footprint.read(size, read, each)
        memory = {
            f"rollout, sampling ({block.engine})": self._sampling(size, rows, block.engine),
            "rollout, exact pass": footprint.with_process(
                footprint.exact(size, read, runtime), runtime, size
            ),
        }
        table = rows.number * (ROW + TOKEN * (rows.prompt + 4 * rows.new))
        return Cell("rollout", folder, cost, memory, {"tables": table})

    def _sampling(self, size: Size, rows: Rows, engine: str) -> Parts:
        runtime = self.experiment.runtime
        found = footprint.sampling(size, rows, engine, runtime)
        return footprint.with_process(found, runtime, size)

    def _evaluate(self, folder: Path, settings: Settings) -> Cell:
        block, runtime, size = settings.evaluate, self.experiment.runtime, self.student
        rows = self.rows(block.problems * block.samples, block.max_new_tokens)
        every = rows._replace(number=rows.number + block.problems)  # greedy answers beside them
        cost = footprint.sampled(size, every, block.engine, runtime)
        memory = {f"evaluate ({block.engine})": self._sampling(size, rows, block.engine)}
        table = every.number * (ROW + TOKEN * every.new)
        return Cell("evaluate", folder, cost, memory, {"tables": table})

    def _teach(self, folder: Path, group: str, cell: dict[str, Any], settings: Settings) -> Cell:
        own, solutions = cell["params"], group.endswith("solutions")
        samples, length = settings.teach.most, own["chunk_tokens"]
        places = budget_caps.prefixes(settings)
        solutions |= settings.forks.scheduler == "whole"
        if solutions:
            places = settings.rollout.prompts_per_round
        if "pairs" in own:  # a judge, in two orders
            places = settings.rollout.prompts_per_round * own["pairs"] * 2
        cache = {"tables": float(places * samples * (ROW + TOKEN * length))}
        config = self.experiment.teachers[cell["params"]["teacher"]]
        if not isinstance(config, LocalTeacher):
            return Cell("teach, hosted", folder, cache=cache)
        size, runtime = self.sizes[cell["teacher"]], self.experiment.runtime
        if solutions or "pairs" in own:
            rows = self.rows(places * samples, length)
            if "pairs" in own:  # the prompt holds two answers
                answer = self.rows(1, settings.rollout.max_new_tokens).new
                rows = rows._replace(prompt=rows.prompt + 2 * answer)
            cost = footprint.sampled(size, rows, config.engine, runtime)
        else:  # each response is read once, with its forks, and continued from there
            block = settings.rollout
            each = self.rows(
                block.prompts_per_round * block.samples_per_prompt, block.max_new_tokens
            )
            before = each.prompt + each.new / 2
            rows = Rows(places * samples, before, length)
            once = Cost(
                each.number * each.length * (2 * size.body + size.attention(each.length / 2))
            )
            new = footprint.sampled(size, rows, config.engine, runtime)
            again = places * samples * before * (2 * size.body + size.attention(before / 2))
            cost = once + new._replace(operations=max(0.0, new.operations - again))
        name = "solutions" if solutions else "continuations"
        label = f"teach, {name} of {config.model} ({config.engine})"
        memory = {label: self._sampling(size, rows, config.engine)}
        return Cell("teach, " + name, folder, cost, memory, cache)

    def _train(self, folder: Path, settings: Settings, teacher: str | None, kept: bool) -> Cell:
        block, size = settings.train, self.student
        per_prompt = settings.rollout.samples_per_prompt
        objective = declared(block.objective)
        if "solutions" in objective.reads:
            per_prompt = settings.teach.most
        count = settings.rollout.prompts_per_round * per_prompt * block.epochs
        found = Training(
            self.rows(count, settings.rollout.max_new_tokens),
            block.micro_batch_size,
            block.adapter,
            block.moment_bits or 32,
            block.norms_every if objective.anchor and block.beta > 0 else 0,
            self.sizes[teacher] if teacher else None,
            objective.reference,
            block.processes,
        )
        runtime, label = self.experiment.runtime, f"train {block.objective}"
        read = [size] + [size] * (found.reference and not block.adapter)
        read += [found.teacher] if found.teacher else []
        parts = footprint.training(size, found, runtime)
        memory = {label: footprint.with_process(parts, runtime, *read)}
        cache = _checkpoint(size, block) if kept else {}
        return Cell(label, folder, footprint.trained(size, found, runtime), memory, cache)


def _checkpoint(size: Size, block: Train) -> dict[str, float]:
    """Outs of a train cell that are as large as the model or its adapter."""
    weights = size.adapter(block.adapter) * 4 if block.adapter else size.weights * size.width
    found = {"trained weights": float(weights)}
    count = size.adapter(block.adapter) if block.adapter else size.weights
    width = 2 * (block.moment_bits or 32) / 8 if block.optimizer == "carry" else 0.0
    if not block.adapter and size.width < 4:
        width += 4  # float32 weights beside them
    return found | ({"optimizer state": count * width} if width else {})
