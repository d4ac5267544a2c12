"""Which answers a judge prefers: those of an arm's last student or those of the untrained one.

The cells are those of pipeline/plan/evaluation/held_out.py, the answers those of a teacher that was
asked as pipeline/method/judging.py says.
"""

from collections import Counter, defaultdict
from statistics import fmean

from pipeline.analysis import bootstrap, pooled
from pipeline.analysis.agreement import prompts
from pipeline.analysis.looks import over_seeds
from pipeline.data import schemas, tables
from pipeline.method import judging
from pipeline.stage.run_records import Arms, Row, folder, rounds

STAGE = "teach-judge"
OWN = ("second", "first")  # by position: where the arm's answer stood, behind and before the base's
WORTH = {"won": 1.0, "tied": 0.5, "lost": 0.0, "unread": 0.5}
READ = ["rollout_id", "position", "sample", "text", "teacher"]


def rows(held_out: Arms) -> list[Row]:
    """One row per arm and seed, with several seeds one more per arm, whose seed is null.

    `share` is the mean over replies of 1 where the arm's answer won, 1/2 for a tie, and 0 where it
    lost, then over prompts; with a bootstrap over prompts, conditional on the run. Over seeds the
    interval is over seeds and prompts, and counts are sums.

    A reply without a verdict (`unread`) counts as a tie. `consistent`: share of the pairs of which
    both orders have the same verdict; null where none has two that were read.
    """
    found, graded = list[Row](), dict[str, pooled.Seeds]()
    for arm, seed, round_, cells in rounds(held_out):
        if STAGE in cells:
            row, graded.setdefault(arm, {})[seed] = _row(cells)
            found.append({"arm": arm, "seed": seed, "round": round_, **row})
    found += [row for arm, seeds in graded.items() for row in _pooled(found, arm, seeds)]
    return sorted(found, key=lambda row: list(graded).index(row["arm"]))


def _pooled(found: list[Row], arm: str, seeds: pooled.Seeds) -> list[Row]:
    """The row over seeds; none where there is one seed."""
    pool, own = over_seeds.pool(seeds), [row for row in found if row["arm"] == arm]
    if pool is None:
        return []
    row = {**own[0], "seed": None, "prompts": pool.prompts}
    row |= dict(zip(("share", "low", "high"), pool.mean, strict=True))
    row |= {name: sum(one[name] for one in own) for name in WORTH}
    known = [one["consistent"] for one in own if one["consistent"] is not None]
    return [row | {"consistent": fmean(known) if known else None}]


def _row(cells: dict[str, str]) -> tuple[Row, bootstrap.Graded]:
    prompt_of = prompts(cells["rollout-judge"])
    names, values, counts, judge = [], [], Counter[str](), None
    orders: dict[tuple[str, int], list[str]] = defaultdict(list)
    path = folder("teach", cells[STAGE]) / "answers.parquet"
    for group in tables.stream(path, schemas.ANSWERS, READ):
        for row in group.to_pylist():
            judge, said = row["teacher"], _said(row["text"], row["position"])
            counts[said] += 1
            names.append(prompt_of[row["rollout_id"]])
            values.append(WORTH[said])
            orders[row["rollout_id"], row["sample"]].append(said)
    graded = bootstrap.graded(names, values)
    share = bootstrap.mean(graded.share_B)
    both = [pair for pair in orders.values() if len(pair) == 2 and "unread" not in pair]
    found = {
        "judge": judge,
        "share": share.value,
        "low": share.low,
        "high": share.high,
        **{name: counts[name] for name in WORTH},
        "consistent": sum(one == other for one, other in both) / len(both) if both else None,
        "prompts": len(graded.problems),
    }
    return found, graded


def _said(text: str, position: int) -> str:
    """Whether the arm's answer won, by a reply."""
    found = judging.verdict(text)
    if found is None:
        return "unread"
    return "tied" if found == "tie" else "won" if found == OWN[position] else "lost"
