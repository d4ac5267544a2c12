"""How far a teacher agrees with students on prompts that none of them was trained on.

The cells are those of pipeline/plan/evaluation/held_out.py. Students of one seed answer the same
prompts, so differences from the untrained student are paired by prompt.
"""

from collections.abc import Iterator
from statistics import fmean

import pyarrow as pa

from pipeline.analysis import bootstrap
from pipeline.analysis.agreement import prompts
from pipeline.analysis.looks import over_seeds
from pipeline.data import schemas, tables
from pipeline.stage.run_records import Arms, Row, folder, rounds, run_json

NAMES = ("similarity", "low", "high", "diff", "diff_low", "diff_high")
Looks = dict[tuple[str, int, str], bootstrap.Graded | None]  # by arm, seed and look


def rows(held_out: Arms) -> list[Row]:
    """One row per look (`of`: answers or forks), arm and seed, arm base first; with several seeds
    one more per look and arm, whose seed is null and whose intervals are over seeds and prompts.

    `similarity` is the mean over forks of a prompt, then over prompts: k_sem / N at forks, and of
    whole responses with the teacher's own answers. `diff` is from arm base, null there; brackets
    are bootstraps over prompts, conditional on the run. `itself` is what two answers of the teacher
    are alike in one place, at this student's forks; one that always writes the commonest answer can
    be above it. `others` is what they are alike at different prompts. Null where there was nothing
    to compare.
    """
    found, graded = list[Row](), Looks()
    for arm, seed, round_, cells in rounds(held_out):  # arm base comes first
        for of in (name.partition("-")[2] for name in cells if name.startswith("score-")):
            own = graded[arm, seed, of] = _graded(cells, of)
            about = {"of": of, "arm": arm, "seed": seed, "round": round_}
            base = None if arm == "base" else graded["base", seed, of]
            found.append(about | _row(own, base))
            counts = run_json("score", cells[f"score-{of}"])
            found[-1] |= {"metric": _metric(cells, of)}
            found[-1] |= {"itself": counts.get("same_fork"), "others": counts.get("other_problem")}
    found += _pooled(found, graded)
    looks, arms = (list(dict.fromkeys(row[name] for row in found)) for name in ("of", "arm"))
    return sorted(found, key=lambda row: (looks.index(row["of"]), arms.index(row["arm"])))


def _pooled(found: list[Row], graded: Looks) -> Iterator[Row]:
    """A row per look and arm over its seeds, where those have forks on shared prompts."""
    for of, arm in dict.fromkeys((row["of"], row["arm"]) for row in found):
        own, base = (_seeds(graded, one, of) for one in (arm, "base"))
        pool = over_seeds.pool(own, None if arm == "base" else base)
        if pool is None:
            continue
        rows_ = [row for row in found if (row["of"], row["arm"]) == (of, arm)]
        row = {**rows_[0], "seed": None, "prompts": pool.prompts}
        row |= dict(zip(NAMES[:3], pool.mean, strict=True))
        row |= dict(zip(NAMES[3:], pool.diff or (None, None, None), strict=True))
        for name in ("itself", "others"):
            known = [one[name] for one in rows_ if one[name] is not None]
            row[name] = fmean(known) if known else None
        yield row


def _seeds(graded: Looks, arm: str, of: str) -> dict[int, bootstrap.Graded]:
    return {s: one for (a, s, o), one in graded.items() if (a, o) == (arm, of) and one}


def _row(own: bootstrap.Graded | None, base: bootstrap.Graded | None) -> Row:
    found: Row = dict.fromkeys(NAMES) | {"prompts": 0}
    if own is None:
        return found
    found |= dict(zip(NAMES, bootstrap.mean(own.share_B), strict=False))
    found["prompts"] = len(own.problems)
    if base is not None and (pair := _paired(own, base)):
        found |= dict(zip(NAMES[3:], bootstrap.difference(*pair), strict=True))
    return found


def _paired(
    own: bootstrap.Graded, base: bootstrap.Graded
) -> tuple[bootstrap.Graded, bootstrap.Graded] | None:
    """The two on the prompts where both have a fork; None where there is no such prompt."""
    shared = sorted(set(own.problems) & set(base.problems))
    if not shared:
        return None
    values = [dict(zip(one.problems, one.share_B.tolist(), strict=True)) for one in (own, base)]
    first, second = (bootstrap.graded(shared, [one[name] for name in shared]) for one in values)
    return first, second


def _graded(cells: dict[str, str], of: str) -> bootstrap.Graded | None:
    """Similarities by prompt; None without a fork. Each fork of a prompt weighs alike."""
    prompt_of = prompts(cells[f"rollout-{of}"])
    names, values = [], []
    for group in _scores(cells, of):
        names += [prompt_of[name] for name in group["rollout_id"].to_pylist()]
        values += group["similarity"].to_pylist()
    return bootstrap.graded(names, values) if names else None


def _metric(cells: dict[str, str], of: str) -> str | None:
    return next((group["metric"][0].as_py() for group in _scores(cells, of) if len(group)), None)


def _scores(cells: dict[str, str], of: str) -> Iterator[pa.Table]:
    path = folder("score", cells[f"score-{of}"]) / "scores.parquet"
    return tables.stream(path, schemas.SCORES, ["rollout_id", "metric", "similarity"])
