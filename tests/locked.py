"""Locks for plans that a test has written by hand."""

from pathlib import Path

from ruamel.yaml import YAML

from pipeline.behaviour import locks, variants


def lock(folder: Path) -> None:
    """Name the lock of every cell of the plan.yaml in `folder`, and write code/VARIANT.lock."""
    place = folder / "plan.yaml"
    yaml = YAML(typ="safe", pure=True)
    plan = yaml.load(place.read_text(encoding="utf-8"))
    for group, cells in plan["cells"].items():
        if group not in ("arms", "branches"):
            for cell in cells.values():
                cell["code"] = variants.of(group, cell).name
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    with place.open("w", encoding="utf-8") as file:
        yaml.dump(plan, file)
    locks.write(variants.of_plan(plan), folder)
