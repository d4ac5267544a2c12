"""An arm's blocks as cells hold them, without what cannot change a result; and cells' groups."""

from typing import Any

from pipeline.config import params
from pipeline.config.method import NORMS_EVERY, Bought, Shared
from pipeline.config.problems import TaskPrepare
from pipeline.method.similarity import PARTIAL
from pipeline.plan.blocks import Experiment, Settings

UNTRACKED = {"teach": {*Bought.model_fields}, "train": {*Shared.model_fields}}
# what a cell means that has no such key: of the time before there was a choice
ABSENT: dict[str, dict[str, Any]] = {
    "rollout": {"exact": "pass"},
    "teach": {"problem": "own"},
    "train": {"norms_every": NORMS_EVERY},
}
# the order of keys in a cell's file, of which DVC compares the bytes; others follow
ORDER = {
    "teach": (
        *("teacher", "samples", "temperature", "continuation", "problem", "max_attempts"),
        *("max_failure_rate", "epoch"),
    ),
    "score": ("metric", "source", "within", "allow_flat", "max_unseen"),
    "prior": ("alpha", "source", "controls", "combine", "weight"),
    "train": (
        *("objective", "beta", "lr", "batch_size", "micro_batch_size", "epochs", "reduce"),
        *("correction", "optimizer", "betas", "warmup_steps", "clip", "answers", "jsd_beta"),
        *("baseline", "anchor", "lora", "moment_bits"),
    ),
}


def dump(block: params.Params) -> dict[str, Any]:
    """The settings of a block as cells hold them: under the names that they had first."""
    return block.model_dump(mode="json", exclude_none=True, by_alias=True)


def scored(settings: Settings) -> dict[str, Any]:
    """The block score, with max_unseen only where its metric can be blind to a text."""
    found = tracked(settings, "score")
    if found["metric"] not in PARTIAL or found["source"] == "zero":
        del found["max_unseen"]
    return found


def tracked(settings: Settings, block: str) -> dict[str, Any]:
    """A block without what cannot change a result."""
    found = dump(getattr(settings, block))
    for key, value in ABSENT.get(block, {}).items():
        if found.get(key) == value:
            del found[key]
    if block == "prior":
        found["alpha"] = settings.prior.strength(settings.teach.most)
    found = {key: value for key, value in found.items() if key not in UNTRACKED.get(block, ())}
    return {key: found[key] for key in (*ORDER.get(block, ()), *found) if key in found}


def sandboxed(stage: str, prepare: TaskPrepare) -> str:
    """Group of a stage that grades."""
    return f"{stage}-sandbox" if prepare.sandboxed else stage


def engined(stage: str, engine: str) -> str:
    """Group of a stage that samples: each engine loads files of its own."""
    return stage if engine == "hf" else f"{stage}-{engine}"


def own_answers(settings: Settings) -> Settings:
    """The same, but that the student answers where another trainer's responses are read."""
    if not settings.prepare.imported:
        return settings
    prepare = settings.prepare.model_copy(update={"responses": False})
    return settings.model_copy(update={"prepare": prepare})


def method(settings: Settings) -> dict[str, Any]:
    """The settings that the report prints of an arm: every number of the method."""
    blocks = ("forks", "teach", "score", "prior", "train")
    found = {"rollout": dump(settings.rollout)}  # with rollout.exact, whatever it is
    found |= {name: tracked(settings, name) for name in blocks} | {"score": scored(settings)}
    names = settings.teach.teachers
    found["teach"]["teacher"] = names[0] if len(names) == 1 else list(names)
    return {"prepare": dump(settings.prepare), **found}


def who(experiment: Experiment, prompts: str) -> dict[str, Any]:
    """Entries of the report: whom it is about, and the folder of the problems' cell `prompts`.

    Of student and teachers what can change an answer, in words.
    """
    student = experiment.experiment.student
    arms = [experiment.arm(name) for name in experiment.experiment.arms]
    start = dump(arms[0].pretrain.models[student].init)
    teachers = dict.fromkeys(name for arm in arms for name in arm.teach.teachers)
    return {
        "prompts": f"data/prepare/{prompts}",
        "student": {"name": student, "from": _words(start)},
        "teachers": {name: _teacher(experiment.teachers[name]) for name in teachers},
    }


def _teacher(teacher: params.Params) -> str:
    found = dump(teacher)
    return _words({k: found[k] for k in ("kind", "provider", "model") if k in found})


def _words(found: dict[str, Any]) -> str:
    """`llama, hidden 96, layers 2`: short values by their names, the kind as it is."""
    rest = [f"{k} {v}" for k, v in found.items() if k != "kind" and len(str(v)) <= 80]
    return ", ".join([str(found["kind"]).replace("_", "-"), *rest])
