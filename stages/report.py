"""report: what each arm is worth, as a table, JSON and pictures.

reads   problems, evaluations, rollouts, forks, answers, scores, targets, calibrations, metrics and
        run.json of the plan's cells, the base students' tokenizers; other folders may lie beside
        them; of code/ which libraries the locks name
writes  results.json, contrasts.json, pooled.json, verdicts.json, costs.json, branches.json (rows
        where experiment.branch names controls), calibration.json, curves.json, losses.json,
        no_effect.json, results.md, index.html, *.png; agreement.json and written.json where
        no task can grade, held_out.json and judged.json where block evaluate asks; for
        DVC metrics/ARM.json and plots/
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from pydantic import Field

from pipeline.analysis import (
    agreement,
    costs,
    pooled,
    results,
    score_effects,
    verdicts,
    written,
)
from pipeline.analysis.looks import held_out, judged
from pipeline.analysis.results import Evals
from pipeline.calibration import summary as calibration
from pipeline.config import params
from pipeline.config.method import Split
from pipeline.core import verified
from pipeline.core.dag_names import cell_file
from pipeline.data import aligned, schemas, tables
from pipeline.report import (
    calibration_picture,
    charts,
    collapse_section,
    cost_chart,
    dvc_views,
    markdown,
    no_effect,
)
from pipeline.report.page import gather
from pipeline.stage import cells
from pipeline.stage.run_records import GATE, Arms, folder, rounds

LOOKS = {"held_out": held_out.rows, "judged": judged.rows}  # what block evaluate asks
BINS = 40
HIGHEST = 6.0  # nats; entropies above it fall into the last bin
Histogram = tuple[np.ndarray, np.ndarray]


class ReportParams(params.Params):
    arms: Arms
    branches: Arms
    settings: dict[str, dict[str, Any]]
    sampled_k: int
    split: Split
    per_seed: bool
    notes: tuple[str, ...]
    prompts: str  # folder of the problems
    student: dict[str, str]  # name, and what it was made from
    teachers: dict[str, str]  # in words, by name
    held_out: Arms = Field(default_factory=dict)  # of block evaluate, by look and stage
    claims: dict[str, float] = verdicts.CLAIMS  # of omniopd over an arm, percent
    match: dict[str, Any] | None = None  # experiment.match: resource, cap, and whom it leaves free


def _count(values: Any, edges: np.ndarray) -> np.ndarray:
    array = np.clip(np.asarray(values, np.float64), edges[0], edges[-1])
    return np.histogram(array, edges)[0]


def entropies(arms: Arms) -> tuple[Histogram, Histogram, Histogram]:
    """Entropies of all tokens and of forks, and forks' places, streamed: memory stays flat."""
    forks_of = {own["rollout"]: own["forks"] for *_, own in rounds(arms) if "forks" in own}
    edges, shares = np.linspace(0, HIGHEST, BINS + 1), np.linspace(0, 1, BINS // 2 + 1)
    everywhere, forks, places = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS // 2)
    for rollout, fork in forks_of.items():
        path = folder("forks", fork) / "forks.parquet"
        side = aligned.Side(path, schemas.FORKS, "rollouts", ["rollout_id", "position", "entropy"])
        own = folder("rollout", rollout) / "rollouts.parquet"
        for group in tables.stream(own, schemas.ROLLOUTS, ["rollout_id", "entropies"]):
            everywhere += _count(pc.list_flatten(group["entropies"]), edges)
            counts = pc.list_value_length(group["entropies"]).to_pylist()
            lengths = dict(zip(group["rollout_id"].to_pylist(), counts, strict=True))
            positions = side.of(group["rollout_id"])
            forks += _count(positions["entropy"], edges)
            total = np.array([lengths[i] for i in positions["rollout_id"].to_pylist()], float)
            places += _count(positions["position"].to_numpy() / np.maximum(total, 1), shares)
        side.end()
    return (everywhere, edges), (forks, edges), (places, shares)


def similarities(arms: Arms) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Counts, edges and mean of the similarities of each arm over all its rounds."""
    edges = np.linspace(0, 1, BINS // 2 + 1)
    by_arm: dict[str, tuple[np.ndarray, float]] = {}
    for arm, _, _, own in rounds(arms):
        for stage in (name for name in own if name.startswith("score") and name != GATE):
            path = folder(stage, own[stage]) / "scores.parquet"
            for group in tables.stream(path, schemas.SCORES):
                values = group["similarity"].to_numpy()
                counts, total = by_arm.get(arm, (np.zeros(BINS // 2), 0.0))
                by_arm[arm] = (counts + _count(values, edges), total + float(values.sum()))
    return {
        arm: (counts, edges, total / max(counts.sum(), 1))
        for arm, (counts, total) in by_arm.items()
    }


def weights(arms: Arms) -> dict[str, np.ndarray]:
    """Counts of forks (bins of pi_bar, bins of weight) of each arm over all its rounds."""
    edges = np.linspace(0, 1, BINS + 1)
    counts: dict[str, np.ndarray] = {}
    for arm, _, _, own in rounds(arms):
        if "prior" in own:
            path = folder("prior", own["prior"]) / "targets.parquet"
            for group in tables.stream(path, schemas.TARGETS):
                both = group["pi_bar"].to_numpy(), group["weight"].to_numpy()
                counts[arm] = counts.get(arm, 0) + np.histogram2d(*both, [edges, edges])[0]
    return counts


def losses(arms: Arms) -> list[dict[str, Any]]:
    """Metrics of every optimizer step, with arm and seed."""
    steps = []
    for arm, seed, _, own in rounds(arms):
        if "train" in own:
            path = folder("train", own["train"]) / "metrics.jsonl"
            verified.once(path)
            lines = path.read_text(encoding="utf-8").splitlines()
            steps += [{"arm": arm, "seed": seed, **json.loads(line)} for line in lines]
    return steps


def students(arms: Arms) -> list[str]:
    """Cells of the base students: power.py tells by them whether a report is a plan's pilot."""
    found = (own["round-0"]["policy"].rpartition("/")[2] for own in arms["base"].values())
    return list(dict.fromkeys(found))


def plan(cell: str) -> str:
    """MD5 of the cell's file: dvc.lock names it, so that git knows from which commit on."""
    content = cell_file("report", cell).read_bytes()
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def pictures(p: ReportParams, parts: dict[str, Any], out: Path) -> None:
    names, points, branched = list(p.arms), parts["curves"], parts["branches"]
    charts.learning_curves(points, names, p.split, out / "learning_curves.png")
    charts.histogram_pair(*entropies(p.arms), out / "entropy_forks.png")
    charts.similarity(similarities(p.arms), names, out / "similarity.png")
    charts.weights(weights(p.arms).items(), out / "pi_hat_pi_bar.png")
    cost_chart.draw(points, parts["pooled"], parts["costs"], names, out / "cost.png")
    if len({row["round"] for row in branched}) > 1:
        charts.branches(branched, out / "branches.png")


def _ungraded(p: ReportParams) -> dict[str, Any]:
    """What can be said where no task can grade."""
    return {
        "agreement": agreement.rows(p.arms, p.settings),
        "written": written.rows(p.arms, p.settings),
    }


@cells.entry
def main() -> None:
    args = cells.arguments("report")
    p = cells.params("report", args.cell, ReportParams)
    with cells.running("report", args) as run:
        evals = Evals(p.arms)
        rows, points = results.results(evals), results.curves(evals)
        without = no_effect.rows(p.arms, p.settings, steps := losses(p.arms))
        untrained = no_effect.untrained(without)
        parts: dict[str, Any] = {
            "results": rows,
            **({} if rows else _ungraded(p)),
            **({name: look(p.held_out) for name, look in LOOKS.items()} if p.held_out else {}),
            "contrasts": results.contrasts(evals, untrained),
            "pooled": pooled.rows(evals),
            "verdicts": verdicts.rows(evals, p.split, p.claims, untrained),
            "branches": score_effects.effects(evals, p.branches),
            "costs": costs.rows(p.arms),
            "curves": points,
            "losses": steps,
            "no_effect": without,
            "collapse": collapse_section.rows(p.arms),
        }
        for name, value in parts.items():
            text = json.dumps(value, indent=1, allow_nan=False) + "\n"
            cells.write_text(args.out / f"{name}.json", text)
        calibrated = calibration.gather(p.arms, p.settings)
        parts["calibration"] = calibration.rows(calibrated)
        cells.write_text(args.out / "calibration.json", calibration.dumped(parts["calibration"]))
        text = markdown.render(evals, parts, p.settings, p, calibrated)
        cells.write_text(args.out / "results.md", text)
        for path, text in dvc_views.files(list(p.arms), parts, evals).items():
            cells.write_text(args.out / path, text)
        calibration_picture.contrasts(calibration.shown(calibrated), args.out / "calibration.png")
        pictures(p, parts, args.out)
        page = gather.html(evals, parts, p, plan(args.cell))
        cells.write_text(args.out / "index.html", page)
        for failure in no_effect.failures(parts["no_effect"]):
            cells.log.warning(f"report: {failure}")
        run.counts["students"] = " ".join(students(p.arms))
        run.rows_in, run.rows_out = sum(map(len, evals.tables.values())), len(rows)


if __name__ == "__main__":
    main()
