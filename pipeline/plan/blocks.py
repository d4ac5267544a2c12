"""params.yaml as a whole: base blocks, and arms as overrides on them.

The base blocks are the arm `omniopd`; every other arm is a set of overrides. What must fit together
is checked where the file is loaded (pipeline/plan/experiment.py).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, ValidationError, create_model

from pipeline.config import method, params
from pipeline.config.alarms import Alarms
from pipeline.config.evaluation import Evaluate
from pipeline.config.machines import Machines
from pipeline.config.method import Calibrate, Forks, Prior, Rollout, Score, Teach
from pipeline.config.models import Pretrain
from pipeline.config.params import METHOD, Params
from pipeline.config.problems import Prepare
from pipeline.config.teachers import Teacher
from pipeline.core.errors import UserError
from pipeline.method import objectives
from pipeline.plan import adapter_default

PARAMS = Path("params.yaml")
SHOWN = 5  # of the faults that are found at once
M = TypeVar("M", bound=Params)

if TYPE_CHECKING:
    from pipeline.config.method import Train
else:  # with the keys that single objectives add
    own = objectives.settings()
    # without those that Train or another one extends: a base may not stand before what extends it
    own = [x for x in own if not any(issubclass(y, x) for y in (method.Train, *own) if y is not x)]
    Train = create_model("Train", __base__=(method.Train, *own))


class Settings(Params):
    """The settings of one arm: the base blocks with the arm's overrides applied."""

    prepare: Prepare
    pretrain: Pretrain
    rollout: Rollout
    forks: Forks
    teach: Teach
    score: Score
    prior: Prior
    calibrate: Calibrate = Calibrate()
    train: Train
    evaluate: Evaluate

    @property
    def answer_tokens(self) -> int:
        """The most student tokens of an answer at a fork: a chunk's, or of one to the end."""
        to_end = self.score.source == "outcome"
        return self.rollout.max_new_tokens if to_end else self.forks.chunk_tokens


class Sweep(Params):
    """Arms once more at every combination of values: pipeline/plan/sweeps.py."""

    arms: tuple[params.Name, ...]
    values: dict[str, tuple[Any, ...]]  # by key with dots, as train.lr


class Experiment(Settings):
    """params.yaml."""

    experiment: params.Experiment
    sweep: dict[params.Name, Sweep] = Field(default_factory=dict)
    runtime: Machines = Machines()
    alarms: Alarms = Alarms()
    arms: dict[params.Name, dict[str, Any]]
    teachers: dict[params.Name, Teacher]

    def arm(self, name: str) -> Settings:
        """The settings of arm `name`. Raises UserError where they are none."""
        return self._settings(name, "experiment.arms")

    def branch(self, name: str) -> Settings:
        """Arm omniopd with the overrides of control `name` on top. Raises UserError."""
        return self._settings(name, "experiment.branch", METHOD)

    def adapters(self) -> str:
        """How each arm trains, arms that train alike named together."""
        found: dict[str, list[str]] = {}
        for name in self.experiment.arms:
            arm, models = self.arm(name), self.arm(name).pretrain.models
            said = (self.arms[name].get("train") or {}).get("lora") or self.train.lora
            how = adapter_default.line(arm.train, models, said is not None, self.experiment.student)
            found.setdefault(how, []).append(name)
        alike = len(found) == 1
        return "\n".join(how if alike else f"{', '.join(n)}: {how}" for how, n in found.items())

    def _settings(self, name: str, where: str, *below: str) -> Settings:
        if name not in self.arms:
            raise UserError(
                f"{where}: {name!r} is not defined; defined are {sorted(self.arms)}. "
                f"Add it under arms, or take it out of {where}."
            )
        return self._laid((*below, name), f"{PARAMS}, arm {name}")

    def base(self) -> Settings:
        """The base blocks without any arm's overrides."""
        return self._laid((), str(PARAMS))

    def _laid(self, names: tuple[str, ...], label: str) -> Settings:
        values = self.model_dump(mode="json", include=set(Settings.model_fields))
        for arm in names:
            values = merge(values, self.arms[arm])
        settings = validated(Settings, values, label)
        models, student = settings.pretrain.models, self.experiment.student
        train = adapter_default.resolved(settings.train, models, student)
        rollout = settings.rollout.model_copy(update={"exact": self._exact(settings)})
        return settings.model_copy(update={"train": train, "rollout": rollout})

    def _exact(self, settings: Settings) -> params.Exact | None:
        """rollout.exact, where params do not say: `engine` if vLLM and the exact pass both compute
        in float32. None where nothing is sampled through vLLM."""
        if settings.rollout.engine != "vllm" or settings.prepare.imported:
            return settings.rollout.exact if settings.rollout.exact == "engine" else None
        student = settings.pretrain.models.get(self.experiment.student)
        # on a CPU both compute in float32 whatever the checkpoint's dtype is, else in that
        wide = self.runtime.device == "cpu" or (student and student.dtype == "float32")
        return settings.rollout.exact or ("engine" if wide else "pass")


def validated(model: type[M], values: Any, where: str) -> M:
    """`values` as a block. Raises UserError that names each wrong key."""
    try:  # as JSON: a list is a tuple and 1 is a float, but "1" is no number
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        found = [params.explained(one) for one in error.errors()]
        more = [f"And {len(found) - SHOWN} more."] if len(found) > SHOWN else []
        raise UserError(f"{where}: {' '.join(found[:SHOWN] + more)}") from error


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping; an unknown key is refused by validation."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged
