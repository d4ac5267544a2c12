"""The source of an export: one round of an arm of a project, or the round of an audit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import params_file
from pipeline.config.params import METHOD
from pipeline.core import yaml_files
from pipeline.core.errors import UserError
from pipeline.plan import blocks, experiment
from pipeline.plan.expand import GROUPS
from pipeline.plan.resolved import dump
from pipeline.stage import run_records
from pipeline.stage.multi_step import as_one

PLAN = "plan.yaml"  # of an audit: all its cells in one file


@dataclass(frozen=True)
class Source:
    """A round with its cells; artifacts lie under `root`."""

    root: Path  # the project, or the audit's folder
    plan: dict[str, Any]
    settings: blocks.Settings
    experiment: blocks.Experiment
    arm: str
    seed: int
    round: int
    rounds: int  # of the arm under this seed
    cells: dict[str, str]  # stage: key, and `policy` of arm base

    def folder(self, stage: str) -> Path:
        """The folder of the round's cell of a stage. Raises UserError where the round has none."""
        if stage not in self.cells:
            raise UserError(
                f"arm {self.arm}: its round {self.round} has the stages {sorted(self.cells)} and "
                f"no {stage}. Only a trained arm has a checkpoint, and only arms whose objective "
                "is omniopd have targets: export another one, or --to hf."
            )
        return self.root / run_records.folder(stage, self.cells[stage])

    def params(self, stage: str) -> dict[str, Any]:
        """Resolved params of the round's cell of a stage."""
        found: dict[str, Any] = self.cell(stage)["params"]
        return found

    def cell(self, stage: str) -> dict[str, Any]:
        key = self.cells[stage]
        groups = self.plan["cells"]
        wanted = (stage.partition("-")[0], "steps")
        group = next(g for g in GROUPS if g.partition("-")[0] in wanted and key in groups[g])
        found = groups[group][key]
        return as_one(key, found, stage) if group.startswith("steps") else dict(found)

    def of_several(self, stage: str) -> bool:
        """Whether the round's cell of a stage holds other rounds as well."""
        groups = self.plan["cells"]
        steps = (name for name in GROUPS if name.partition("-")[0] == "steps" and name in groups)
        return any(self.cells[stage] in groups[name] for name in steps)

    @property
    def train(self) -> dict[str, Any]:
        """Params of its train cell; an audit trains nothing, and has those of params.yaml."""
        return self.params("train") if "train" in self.cells else dump(self.settings.train)

    @property
    def prompts(self) -> Path:
        """The table of the round's problems."""
        return self.root / f"data/prepare/{self.cell('rollout')['prompts']}/prompts.parquet"

    @property
    def policy(self) -> Path:
        """The checkpoint that wrote the round's rollouts, and that its training starts from."""
        return self.root / f"{self.cell('rollout')['policy']}/checkpoint"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint after the round; of arm base the untrained student."""
        if "policy" in self.cells:
            return self.root / self.cells["policy"] / "checkpoint"
        return self.folder("train") / "checkpoint"


def find(name: str, seed: int | None, round_: int | None) -> Source:
    """The round of arm `name` of the project here, or of the audit in folder `name`.

    By default the first seed and the last round. Raises UserError.
    """
    root = Path(name) if (Path(name) / PLAN).is_file() else Path()
    if root != Path():
        found, arm = yaml_files.made(root / PLAN, "Run the audit again."), METHOD
    else:
        from pipeline.runner.dag import plan_files

        found, arm = plan_files.current(), name
    arms = found["cells"]["arms"]
    if arm not in arms:
        raise UserError(
            f"{name!r} is neither an arm of the plan nor an audit's folder; arms: "
            f"{sorted(arms)}. Name one."
        )
    seeds = {int(key.removeprefix("seed-")): rounds for key, rounds in arms[arm].items()}
    rounds = _one("--seed", seeds, min(seeds) if seed is None else seed, arm)
    numbered = {int(key.removeprefix("round-")): cells for key, cells in rounds.items()}
    last = max(numbered)
    wanted = last if round_ is None else round_
    own = _one("--round", numbered, wanted, arm)
    file = experiment.load(root / params_file.PARAMS)
    settings = file.arm(METHOD if arm == "base" else arm)
    chosen = min(seeds) if seed is None else seed
    return Source(root, found, settings, file, arm, chosen, wanted, last, own)


def _one(option: str, found: dict[int, Any], wanted: int, arm: str) -> dict[str, Any]:
    if wanted not in found:
        raise UserError(f"{option} {wanted}: arm {arm} has {sorted(found)}. Name one of them.")
    return dict(found[wanted])
