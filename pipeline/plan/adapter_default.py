"""Whether a student trains every weight or an adapter, where params do not say.

Above half a billion parameters it is an adapter. The size comes from params, a table and files that
lie in the project, never from a download. Where it cannot be known, params must say which: a
default that hangs on what was fetched before would change results silently.
"""

import json
from pathlib import Path

from pipeline.config.method import Lora, Train
from pipeline.config.models import GgufInit, HubInit, LlamaInit, ModelInit, Shape
from pipeline.core.errors import UserError
from pipeline.plan import model_shapes
from pipeline.plan.model_shapes import Models

ABOVE = 500_000_000  # parameters
# rank and alpha as TRL's ModelConfig has them (1.16); every linear layer, as QLoRA found to be
# needed to match training every weight (arXiv 2305.14314)
DEFAULT = Lora(rank=16, alpha=32.0, targets="all-linear")
CHARACTERS = 1000  # more than any task's own vocabulary has


def resolved(train: Train, models: Models, student: str) -> Train:
    """Set `lora` to an adapter's settings, or to None to train every weight. Raises UserError."""
    match train.lora:
        case "none":
            adapter = None
        case None if student in models:
            adapter = DEFAULT if _large(models, student) else None
        case found:
            adapter = found
    return train.model_copy(update={"lora": adapter})


def line(train: Train, models: Models, said: bool, student: str) -> str:
    """Say how an arm with a resolved `train` trains, and why; `said`: params say it."""
    adapter, how = train.lora, "every weight is trained"
    if isinstance(adapter, Lora):
        layers = adapter.targets if isinstance(adapter.targets, str) else ", ".join(adapter.targets)
        how = f"an adapter is trained, rank {adapter.rank}, alpha {adapter.alpha:g}, {layers}"
    count = parameters(student, models)
    size = "" if count is None else f", {count / 1e6:,.2f} million parameters"
    why = "as train.lora says"
    if not said:
        why = f"train.lora is not set, and the limit is {ABOVE / 1e6:.0f} million"
    return f"student {student}{size}: {how} ({why})"


def _large(models: Models, student: str) -> bool:
    count = parameters(student, models)
    if count is None:
        raise UserError(
            "params.yaml: train.lora: found nothing, wanted `none`, which trains every weight, or "
            f"an adapter such as {{rank: {DEFAULT.rank}, alpha: {DEFAULT.alpha:g}, targets: "
            f"{DEFAULT.targets}}}: the default hangs on the size of student {student}, which is "
            f"not known here. Say which, or state pretrain.models.{student}.shape."
        )
    return count > ABOVE


def parameters(name: str, models: Models) -> int | None:
    """Parameters of an entry of pretrain.models, without norms and biases; None if unknown here.

    For a model of the task's own characters it is a little more.
    """
    shape = _shape(name, models)
    return None if shape is None else model_shapes.Size(shape, 4, "").weights


def _shape(name: str, models: Models) -> Shape | None:
    if models[name].shape is not None:
        return models[name].shape
    match models[name].init:
        case ModelInit(name=start):
            return _shape(start, models) if start in models else None
        case LlamaInit() as init:
            values = (*(init.layers, init.hidden), 1, 1, init.hidden, init.mlp, CHARACTERS, True)
        case GgufInit(file=known) if known in model_shapes.TABLE:
            values = model_shapes.TABLE[known]
        case HubInit(name=known) if (Path(known) / "config.json").is_file():
            return model_shapes.of_config(
                json.loads((Path(known) / "config.json").read_text(encoding="utf-8"))
            )
        case HubInit(name=known) if known in model_shapes.TABLE:
            values = model_shapes.TABLE[known]
        case _:
            return None
    return Shape.model_validate(dict(zip(Shape.model_fields, values, strict=True)))
