"""What the benchmarks sample and train: SmolLM2-135M-Instruct in float32, and problems for it."""

import itertools
from pathlib import Path
from typing import Any

from pipeline.plan import expand
from pipeline.plan.experiment import load

PROFILE = Path(__file__).parent.parent / "pipeline/commands/profiles" / "smollm2.yaml"


def checkpoint(scratch: Path) -> Path:
    """The packaged weights, dequantised, as a checkpoint of ours."""
    import torch

    from pipeline.config.models import GgufInit
    from pipeline.engines.hf import save
    from pipeline.engines.pretrained import from_gguf

    folder = scratch / "checkpoint"
    if not folder.is_dir():
        experiment = load(PROFILE)
        init = experiment.pretrain.models["beginner"].init
        assert isinstance(init, GgufInit)
        save(*from_gguf(init), folder, torch.float32)
    return folder


def params_of(stage: str) -> dict[str, Any]:
    """The profile's params of a cell of `stage`."""
    cells = expand.expand(load(PROFILE))["cells"][stage]
    found: dict[str, Any] = next(iter(cells.values()))["params"]
    return found


def problems(count: int) -> list[Any]:
    """The first of the profile's training problems."""
    import json

    from pipeline.data.prompts import Prompt
    from stages.prepare import PrepareParams, prepare

    found = prepare(PrepareParams(**params_of("prepare")).prepare)
    names = ("prompt_id", "task", "messages", "prompt", "answer")
    rows = itertools.islice((row for row in found if row["split"] == "train"), count)
    return [
        Prompt(**{n: json.loads(r[n]) if n == "messages" else r[n] for n in names}) for r in rows
    ]
