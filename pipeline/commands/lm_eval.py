"""lm-evaluation-harness on a checkpoint of the pipeline; needs the extra `harness`.

A second opinion with published tasks; no part of the DAG. Tasks that run code of the model stay
off, as that package runs it without a sandbox.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import params_file
from pipeline.core.errors import UserError
from pipeline.engines import checkpoints


def checkpoint(found: dict[str, Any], name: str, seed: int) -> Path:
    """A checkpoint's folder, or that of the last round of arm `name` in the plan."""
    if Path(name).is_dir():
        return checkpoints.check(Path(name))
    arms = found["cells"]["arms"]
    rounds = arms.get(name, {}).get(f"seed-{seed}")
    if not rounds:
        raise UserError(
            f"{name!r} with seed {seed} is neither a folder nor an arm of the plan; "
            f"arms: {sorted(arms)}. Name one."
        )
    last = rounds[max(rounds, key=lambda key: int(key.removeprefix("round-")))]
    folder = last["policy"] if "policy" in last else f"data/train/{last['train']}"
    return checkpoints.check(Path(folder) / "checkpoint")


def run(
    folder: Path, tasks: Sequence[str], include: Path | None, limit: int | None, chat: bool
) -> dict[str, Any]:
    """Metrics of each task, and what they were measured on. Raises UserError."""
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            "lm-evaluation-harness is not installed. Run `pip install -c constraints.txt "
            "'omniopd-pipeline[harness]'`."
        ) from error
    manager = TaskManager(include_path=str(include) if include else None)
    unknown = sorted(set(tasks) - set(manager.all_tasks))
    if unknown:
        raise UserError(
            f"--tasks: {unknown} are unknown to the harness. See `lm_eval --tasks list`."
        )
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=model_args(folder),
        tasks=list(tasks),
        task_manager=manager,
        device=params_file.runtime().device,
        limit=limit,
        apply_chat_template=chat,
        log_samples=False,
    )
    return {
        "checkpoint": str(folder),
        "fingerprint": checkpoints.fingerprint(folder),
        "lm_eval": lm_eval.__version__,
        "limit": limit,
        "chat_template": chat,
        "results": found["results"],
        "versions": found["versions"],
        "problems": {task: counts["effective"] for task, counts in found["n-samples"].items()},
    }


def model_args(folder: Path) -> dict[str, Any]:
    """The arguments of the harness's own kind `hf`; an adapter is put on its base."""
    base = checkpoints.verified_base(folder)
    adapter = {} if base == folder else {"peft": str(folder)}
    safe = {"trust_remote_code": checkpoints.runs_code(base), "use_safetensors": True}
    return {"pretrained": str(base), "dtype": "auto", **safe} | adapter


def text(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=1, default=str)
