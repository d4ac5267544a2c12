"""The page of a plan's evaluations: its rows from what the report has, the rest from the cells."""

from pathlib import Path
from typing import Any

from pipeline.analysis.costs import cost
from pipeline.analysis.results import Evals, details
from pipeline.report.page import forks, how
from pipeline.report.page.answers import data as answers
from pipeline.report.page.page import Content, render
from pipeline.stage.run_records import Row, rounds, run_json

CODE = Path("code")  # with a lock for each variant of the plan's cells
SHOWN = (
    "contrasts",
    "curves",
    "pooled",
    "verdicts",
    "costs",
    "calibration",
    "branches",
    "no_effect",
    "collapse",
    "agreement",
    "written",
    "held_out",
    "judged",
)


def html(evals: Evals, found: dict[str, Any], p: Any, plan: str) -> str:
    """index.html, of rows by the names of the report's JSON files; what is missing is left out.

    `p` holds the report's params, `plan` is the MD5 of the file that they stand in.
    """
    return render(
        Content(
            arms=list(p.arms),
            split=p.split,
            k=p.sampled_k,
            per_seed=p.per_seed,
            results=[_detailed(evals, row) for row in found["results"]],
            settings=p.settings,
            runs=_runs(evals),
            notes=list(p.notes),
            student=p.student,
            teachers=p.teachers,
            made=_made(plan),
            answers=answers.view(evals, Path(p.prompts) / "prompts.parquet"),
            browser=forks.browser(p.arms, p.settings),
            **{name: found[name] for name in SHOWN if name in found},
        )
    )


def _made(plan: str) -> dict[str, str]:
    """The plan, by what finds its commit, and the libraries that the locks of its cells name."""
    found: dict[str, set[str]] = {}
    for path in sorted(CODE.glob("*.lock")):
        for line in path.read_text(encoding="utf-8").splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "library" and not rest.endswith(" none"):
                name, _, version = rest.partition(" ")
                found.setdefault(name, set()).add(version)
    libraries = [f"{name} {' and '.join(sorted(found[name]))}" for name in sorted(found)]
    seen = {"libraries": ", ".join(libraries)} if libraries else {}
    return seen | {"plan": f"{plan} (git log -S {plan[:12]} -- dvc.lock says from which commit on)"}


def _detailed(evals: Evals, row: Row) -> Row:
    last = row["round"] == evals.last(row["arm"], row["seed"])
    return row | details(evals, row) if last and row["decoding"] == "sampled" else row


def _runs(evals: Evals) -> dict[str, str]:
    """A sentence an arm, of its first seed's last round."""
    found: dict[str, str] = {}
    for arm, seed, round_, cells in rounds(evals.arms):
        if "train" in cells and arm not in found and round_ == evals.last(arm, seed):
            spent = cost(evals.arms, arm, seed, round_)
            found[arm] = how.run_sentence(
                round_, run_json("train", cells["train"]), spent.failure_rate, spent.tokens_used
            )
    return found
