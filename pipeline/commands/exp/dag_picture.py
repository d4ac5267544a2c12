"""The plan as a graph that fits a screen: a node an arm, where `dvc dag` has one a cell."""

from collections import Counter
from typing import Literal

from pipeline.core.dag_names import ROOT
from pipeline.plan import expand
from pipeline.runner.dag import dag_files, plan_files

PLAN, REPORT = "plan", "report"  # the stages of dvc.yaml


def picture(form: Literal["text", "mermaid", "md"]) -> str:
    """A line an arm, or the graph as `dvc dag` writes it. Raises UserError if dag/ is stale."""
    nodes, edges = by_arm()
    if form == "text":
        reads = {name: ", ".join(a for a, b in edges if b == name) for name in nodes}
        return "\n".join(
            f"{said}, after {reads[name]}" if reads[name] else said for name, said in nodes.items()
        )
    ids = {name: f"node{i}" for i, name in enumerate(nodes, 1)}
    lines = ["flowchart TD", *(f'\t{ids[name]}["{said}"]' for name, said in nodes.items())]
    lines += [f"\t{ids[a]}-->{ids[b]}" for a, b in edges]
    return "\n".join(["```mermaid", *lines, "```"] if form == "md" else lines)


def by_arm() -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The text of each node, an arm or the shared cells; and the edges: who is read by whom."""
    found = plan_files.current()
    places = dag_files.folders(found)
    arms = {cell: REPORT if f == ROOT else f.parent.name for cell, f in places.items()}
    counts = Counter(arms.values())
    edges = {(PLAN, arms[cell]) for cell in places if cell.startswith("prepare")}
    for cell, reads in expand.upstream(found).items():
        edges |= {(arms[read], arms[cell]) for read in reads if arms[read] != arms[cell]}
    order = [PLAN, *(name for name in dict.fromkeys(arms.values()) if name != REPORT), REPORT]
    said = {name: f"{name}: {counts[name]} cell{'s' * (counts[name] > 1)}" for name in order}
    said |= {PLAN: PLAN, REPORT: REPORT}
    return said, sorted(edges, key=lambda edge: tuple(order.index(name) for name in edge))
