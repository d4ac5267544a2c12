"""The fork browser's data: sampled responses of every arm, seed and round, with their evidence.

Cells that arms share are written once. Tables are read a row group at a time, and of each only
the rows of the sampled responses stay, so that memory does not grow with them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from pipeline.core import seeds
from pipeline.data import schemas, tables
from pipeline.engines import checkpoints
from pipeline.report.page.pieces import pieces
from pipeline.stage.run_records import Arms, folder, rounds

MOST = 200  # responses shown of a round
BUDGET = 3_500_000  # bytes of the embedded JSON
CELLS = 200  # rounds' rollouts shown; above it first and last rounds, then one seed
TOKEN_BYTES = 8  # of a token in the JSON, about
SCHEMAS = {
    "forks": (schemas.FORKS, "forks"),
    "teach": (schemas.ANSWERS, "answers"),
    "score": (schemas.SCORES, "scores"),
    "prior": (schemas.TARGETS, "targets"),
}
Rows = dict[str, dict[int, list[dict[str, Any]]]]  # rollout_id: position: rows in table order


@dataclass(frozen=True)
class View:
    """The cells, by key, that the browser shows for one arm, seed and round."""

    arm: str
    seed: int
    round: int
    rollout: str
    cells: dict[str, str]  # forks, prior, and teach and score of each teacher


@dataclass(frozen=True)
class Sample:
    """Sampled responses of a rollouts table, in its order."""

    rows: list[dict[str, Any]]  # with `pieces` and `rank`, the order in which they were drawn
    total: int
    right: int | None  # of the total; None without a checker


class _Texts:
    """Strings that repeat, by number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def browser(
    arms: Arms, settings: dict[str, Any], most: int = MOST, budget: int = BUDGET
) -> dict[str, Any] | None:
    """The data of forks.js, at most `budget` bytes of JSON; None where no arm has rollouts."""
    shown_views = views(arms)
    if not shown_views:
        return None
    keys = list(dict.fromkeys(view.rollout for view in shown_views))
    seed_of = {view.rollout: view.seed for view in reversed(shown_views)}
    samples = {
        key: _sample(key, tokenizer_of(arms, seed_of[key]), most, 2 * budget // len(keys))
        for key in tqdm(keys, desc="fork browser", disable=None)
    }
    evidence = _evidence(shown_views, samples)
    shown = most
    while True:
        data = _encode(shown_views, samples, evidence, shown)
        data["arms"] = {view.arm: _said(settings.get(view.arm, {})) for view in shown_views}
        size = len(dumps(data).encode())
        if size <= budget or shown == 1:
            left = {arm for arm in arms if arm not in {view.arm for view in shown_views}}
            every = sum("rollout" in cells for *_, cells in rounds(arms))
            return data | {
                "absent": [a for a in arms if a in left],
                "thinned": every > len(shown_views),
            }
        longest = max(min(shown, len(s.rows)) for s in samples.values())
        shown = max(1, int(longest * budget / size * 0.95))


def dumps(value: Any) -> str:
    """JSON that may stand in a script element: no `<`, so nothing in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def views(arms: Arms) -> list[View]:
    """Every arm, seed and round that has rollouts; fewer where those are too many for a page."""
    chosen = [
        View(arm, seed, round_, cells["rollout"], _named(cells))
        for arm, seed, round_, cells in rounds(arms)
        if "rollout" in cells
    ]
    if len({view.rollout for view in chosen}) > CELLS:
        ends = {min(v.round for v in chosen), max(v.round for v in chosen)}
        chosen = [view for view in chosen if view.round in ends]
    if len({view.rollout for view in chosen}) > CELLS:
        chosen = [view for view in chosen if view.seed == chosen[0].seed]
    return chosen


def _said(settings: dict[str, Any]) -> dict[str, Any]:
    """Facts shown beside an arm's continuations: whose they are, whether scores were moved."""
    return {
        "teacher": settings.get("teach", {}).get("teacher", ""),
        "metric": settings.get("score", {}).get("metric", ""),
        "shuffled": settings.get("score", {}).get("source") == "shuffled",
    }


def _named(cells: dict[str, str]) -> dict[str, str]:
    """The stages that are shown, with a name that no other stage's table has: a cell of several
    steps has tables of several stages."""
    keys = list(cells.values())
    shown = {stage: key for stage, key in cells.items() if stage.partition("-")[0] in SCHEMAS}
    return {s: key if keys.count(key) == 1 else f"{key}.{s}" for s, key in shown.items()}


def tokenizer_of(arms: Arms, seed: int) -> Path:
    """All checkpoints of a seed have the tokenizer of its base student."""
    policy = arms["base"][f"seed-{seed}"]["round-0"]["policy"]
    return Path(policy) / "checkpoint" / "tokenizer.json"


def _sample(key: str, tokenizer_path: Path, most: int, budget: int) -> Sample:
    """Draw at most `most` responses, about `budget` bytes: half right, half wrong where known."""
    right, wrong = Draw(most), Draw(most)
    total = graded = correct = 0
    for group in tables.stream(folder("rollout", key) / "rollouts.parquet", schemas.ROLLOUTS):
        is_right = pc.fill_null(pc.equal(group["reward"], 1.0), False)
        group = group.append_column("index", pa.array(range(total, total + len(group))))
        right.add(group.filter(is_right))
        wrong.add(group.filter(pc.invert(is_right)))
        total += len(group)
        graded += len(group) - group["reward"].null_count
        correct += pc.sum(is_right).as_py() or 0
    rows, size = [], 0
    for rank, row in enumerate(_alternate(right.rows(), wrong.rows())):
        size += TOKEN_BYTES * len(row["token_ids"])
        if rank and (rank >= most or size > budget):
            break
        rows.append(row | {"rank": rank})
    tokenizer = checkpoints.tokenizer(tokenizer_path)
    for row in rows:
        row["pieces"] = pieces(tokenizer, row["token_ids"], row["text"])
        row["prompt"] = tokenizer.decode(row["prompt_token_ids"], skip_special_tokens=False)
    rows.sort(key=lambda row: row["index"])
    return Sample(rows, total, correct if graded else None)


def _alternate(one: list[Any], other: list[Any]) -> Iterator[Any]:
    """One of each in turn; the rest of the longer."""
    for i in range(max(len(one), len(other))):
        yield from one[i : i + 1]
        yield from other[i : i + 1]


class Draw:
    """The `most` rows of lowest random number, whatever the order of the groups."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.table: pa.Table | None = None

    def add(self, rows: pa.Table) -> None:
        ids = rows["rollout_id"].to_pylist()
        ranks = pa.array([seeds.number("page", name) for name in ids], pa.int64())
        rows = rows.append_column("draw", ranks)
        both = rows if self.table is None else pa.concat_tables([self.table, rows])
        self.table = both.take(pc.sort_indices(both, [("draw", "ascending")])[: self.most])

    def rows(self) -> list[dict[str, Any]]:
        return [] if self.table is None else list(self.table.to_pylist())


def _evidence(chosen: list[View], samples: dict[str, Sample]) -> dict[str, Rows]:
    """The sampled responses' rows of each cell's table."""
    evidence: dict[str, Rows] = {}
    cells = {(n.partition("-")[0], k): v.rollout for v in chosen for n, k in v.cells.items()}
    for (stage, table), rollout in tqdm(cells.items(), desc="fork browser", disable=None):
        key = table.partition(".")[0]
        schema, name = SCHEMAS[stage]
        wanted = pa.array([row["rollout_id"] for row in samples[rollout].rows], pa.string())
        rows: Rows = {}
        for group in tables.stream(folder(stage, key) / f"{name}.parquet", schema):
            for row in group.filter(pc.is_in(group["rollout_id"], wanted)).to_pylist():
                own = rows.setdefault(row["rollout_id"], {})
                own.setdefault(row["position"], []).append(row)
        evidence[table] = rows
    return evidence


def _encode(
    chosen: list[View], samples: dict[str, Sample], evidence: dict[str, Rows], shown: int
) -> dict[str, Any]:
    """The data with the first `shown` responses drawn of each round.

    Lists of a cell's rows run in the order of its rollouts' rows and forks.
    """
    texts, prompts, tokens = _Texts(), _Texts(), _Texts()
    data: dict[str, Any] = {"views": [], "rollouts": {}, "cells": {}}
    for view in chosen:
        sample = samples[view.rollout]
        rows = [row for row in sample.rows if row["rank"] < shown]
        if view.rollout not in data["rollouts"]:
            data["rollouts"][view.rollout] = {
                "total": sample.total,
                "right": sample.right,
                "rows": [_response(row, prompts, tokens) for row in rows],
            }
        positions = _positions(rows, evidence.get(view.cells.get("forks", "")))
        for stage, key in view.cells.items():
            if key not in data["cells"]:
                data["cells"][key] = [
                    [_fork(stage, evidence[key].get(id_, {}).get(t, []), texts) for t in places]
                    for id_, places in positions
                ]
        data["views"].append(
            {"arm": view.arm, "seed": view.seed, "round": view.round, "rollout": view.rollout}
            | {"cells": view.cells}
        )
    data |= {"texts": list(texts.numbers), "prompts": list(prompts.numbers)}
    return data | {"tokens": list(tokens.numbers)}


def _positions(rows: list[dict[str, Any]], forks: Rows | None) -> list[tuple[str, list[int]]]:
    ids = [row["rollout_id"] for row in rows]
    return [(id_, sorted((forks or {}).get(id_, {}))) for id_ in ids]


def _response(row: dict[str, Any], prompts: _Texts, tokens: _Texts) -> list[Any]:
    """[id, prompt, pieces, entropies in 1/100 nats, reward, ended]."""
    return [
        row["rollout_id"],
        prompts(row["prompt"]),
        [tokens(piece) for piece in row["pieces"]],
        [round(100 * value) for value in row["entropies"]],
        row["reward"],
        int(row["finish_reason"] == "stop"),
    ]


def _fork(stage: str, rows: list[dict[str, Any]], texts: _Texts) -> list[Any]:
    """The data of one fork in a cell.

    forks: [position, length, entropy]; teach: text * 2 + ended of each continuation; score: their
    mean, then each in 1/1000; prior: [n, k_sem, pi_bar, pi_hat, posterior_sd,
    weight].
    """
    match stage.partition("-")[0]:
        case "forks":
            return [rows[0]["position"], rows[0]["length"], round(rows[0]["entropy"], 5)]
        case "teach":
            ordered = sorted(rows, key=lambda row: row["sample"])
            return [2 * texts(row["text"]) + row["ended"] for row in ordered]
        case "score" if rows:
            values = [r["similarity"] for r in sorted(rows, key=lambda row: row["sample"])]
            mean = round(sum(values) / len(values), 5)
            return [mean, *(round(1000 * value) for value in values)]
        case "prior" if rows:
            names = ("k_sem", "pi_bar", "pi_hat", "posterior_sd", "weight")
            return [rows[0]["n"], *(round(rows[0][name], 4) for name in names)]
    return []
