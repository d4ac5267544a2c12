"""Locks for plans that a test has written by hand."""

from pathlib import Path

from ruamel.yaml import YAML

from pipeline.behaviour import locks, variants


def lock(folder: Path) -> None:
    """Write code/VARIANT.lock for every cell of the plan.yaml in `folder`."""
    plan = YAML(typ="safe", pure=True).load((folder / "plan.yaml").read_text(encoding="utf-8"))
    locks.write(variants.of_plan(plan), folder)
