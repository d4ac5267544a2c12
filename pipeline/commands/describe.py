"""Describe in words what a key stands for."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.core.errors import UserError
from pipeline.engines.checkpoints import NOTE
from pipeline.plan import expand, step_cells


def show(found: dict[str, Any], name: str) -> str:
    """A cell with its params, inputs and arms; or an arm with its cells. Raises UserError."""
    arms = expand.named(found)
    if name in arms:
        rounds = [own for found in arms[name].values() for own in found.values()]
        trained = [own["train"] for own in rounds if "train" in own]
        gone = [key for key in trained if _dropped(key)]
        note = {"checkpoints dropped by experiment.keep_checkpoints": gone} if gone else {}
        return as_yaml({name: arms[name], **note}).rstrip()
    for full, reads in expand.upstream(found).items():
        group, _, key = full.partition("@")
        if name in (key, full):
            stages = step_cells.stages(found, group, key)
            return as_yaml(
                {
                    full: {
                        **found["cells"][group][key],
                        "folder": " ".join(f"data/{s}/{key}" for s in stages),
                        "reads": sorted(reads),
                        "used by": _users(arms, key) or ["every arm"],
                        **_dropped(key),
                    }
                }
            ).rstrip()
    raise UserError(
        f"{name!r} is neither a cell nor an arm of the plan; arms: {sorted(arms)}. Name one."
    )


def _dropped(key: str) -> dict[str, str]:
    path = Path("data/train") / key / NOTE
    gone = path.is_file() and not (path.parent / "checkpoint").exists()
    return {"dropped": path.read_text(encoding="utf-8").strip()} if gone else {}


def _users(arms: dict[str, Any], key: str) -> list[str]:
    return [
        f"{arm} {seed} {round_}"
        for arm, seeds in arms.items()
        for seed, rounds in seeds.items()
        for round_, stages in rounds.items()
        if any(value == key or value.endswith(f"/{key}") for value in stages.values())
    ]


def as_yaml(value: Any) -> str:
    """Plain values as YAML, a key a line."""
    from io import StringIO

    stream = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(value, stream)
    return stream.getvalue()
