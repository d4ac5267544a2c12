"""The answers view's data: evaluated problems with what two students wrote, pair by pair.

In a report a pair is the base student and a trained arm of its seed; `omniopd compare` pairs an arm
of one experiment with that of another (pipeline/commands/compare/answers.py).

The problems are drawn by their ids alone, so that all arms and seeds show the same ones and what
is seen of them is an estimate of the whole. Tables are read a row group at a time, and of each
only the rows that are shown stay.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from pipeline.analysis.results import Evals
from pipeline.core import seeds
from pipeline.data import schemas, tables
from pipeline.report.page import forks
from pipeline.stage.run_records import folder

MOST = 300  # problems shown
BUDGET = 1_200_000  # bytes of the embedded JSON
PAIRS = 40_000  # answers of all arms and seeds; bounds, with BEGIN and END, what memory holds
CELLS = 200  # evaluations shown; above it those of the first seed alone
SAMPLES = 4  # sampled answers of a problem that can be chosen, beside the greedy one
BEGIN, END = 4_000, 1_500  # characters shown of a longer text
COLUMNS = ["task", "problem_id", "sample", "decoding", "response", "extracted"]
COLUMNS += ["correct", "finish_reason", "tokens"]
Kind = tuple[str, int]  # decoding and sample
Shown = str | tuple[str, int, str]  # a text, or of a long one begin, characters left out, end
Table = dict[tuple[Kind, str], dict[str, Any]]  # rows by kind and problem


@dataclass(frozen=True)
class Evaluated:
    """One arm's evaluation after its last round, of one seed."""

    arm: str
    seed: int
    round: int
    key: str
    source: str = ""  # the experiment, where there are several


class Pair(NamedTuple):
    """Two students' answers to the same problems, and what the page calls the two."""

    before: Evaluated
    after: Evaluated
    names: tuple[str, str]


class Source(NamedTuple):
    """An experiment's evaluations; its files can be read within `opened()`."""

    evals: Evals
    opened: Callable[[], AbstractContextManager[None]]

    def table(self, one: Evaluated) -> pa.Table:
        return self.evals.tables[one.arm, one.seed, one.round]


class _Texts:
    """Texts that repeat, by number; of a long one begin, count left out and end."""

    def __init__(self) -> None:
        self.numbers: dict[Shown, int] = {}

    def __call__(self, text: Shown | None) -> int:
        return -1 if text is None else self.numbers.setdefault(text, len(self.numbers))

    def shown(self) -> list[Shown]:
        return [*self.numbers]


def view(
    evals: Evals, prompts: Path, most: int = MOST, budget: int = BUDGET
) -> dict[str, Any] | None:
    """The data of answers.js, at most `budget` bytes of JSON where one problem fits into it.

    `prompts` is the table of the problems. None where nothing trained was evaluated.
    """
    chosen = evaluated(evals)
    based = {one.seed: one for one in chosen if one.arm == "base"}
    trained = [one for one in chosen if one.arm != "base"]
    pairs = [Pair(based[one.seed], one, ("base", one.arm)) for one in trained]
    seeds_of = sorted({seed for arm, seed, _ in evals.tables if arm != "base"})
    left = [seed for seed in seeds_of if seed not in {one.seed for one in trained}]
    return paired(pairs, {"": Source(evals, nullcontext)}, prompts, left, most, budget)


def paired(
    pairs: Sequence[Pair],
    sources: Mapping[str, Source],
    prompts: Path | None,
    left: Sequence[int] = (),
    most: int = MOST,
    budget: int = BUDGET,
) -> dict[str, Any] | None:
    """Likewise of other pairs, all asked the same problems. `left`: seeds that have no pair."""
    if not pairs:
        return None
    chosen = list(dict.fromkeys(one for pair in pairs for one in pair[:2]))
    asked = problems(sources[chosen[0].source].table(chosen[0]))
    every = [_kinds(sources[one.source].table(one)) for one in chosen]
    kinds = [kind for kind in every[0] if all(kind in own for own in every)]  # of all arms
    if not kinds:
        return None
    drawn = draw(asked, max(1, min(most, PAIRS // (len(chosen) * len(kinds)))))
    rows: dict[Evaluated, Table] = {}
    for name, source in sources.items():
        with source.opened():
            own = [one for one in chosen if one.source == name]
            for one in tqdm(own, desc="answers", disable=None):
                rows[one] = _rows(one, drawn, kinds)
    texts = {} if prompts is None else _prompts(prompts, drawn)
    tallies = [_tallies(sources, pair, kinds) for pair in pairs]
    while True:
        data = _encode(pairs, rows, texts, asked, drawn, kinds) | {"left": list(left)}
        for shown, tally in zip(data["views"], tallies, strict=True):
            shown["tally"] = tally[: len(kinds)]
        size = len(forks.dumps(data).encode())
        if size <= budget or len(drawn) == 1:
            return data
        if len(kinds) > 2:
            kinds = kinds[:2]
            continue
        drawn = drawn[: max(1, int(len(drawn) * budget / size * 0.95))]


def evaluated(evals: Evals) -> list[Evaluated]:
    """The evaluations shown, base before the arms of its seed."""
    found = []
    for arm, seed, round_ in evals.tables:
        cells = evals.arms[arm][f"seed-{seed}"][f"round-{round_}"]
        if round_ == evals.last(arm, seed):
            found.append(Evaluated(arm, seed, round_, cells["evaluate"]))
    based = {one.seed for one in found if one.arm == "base"}
    found = [one for one in found if one.seed in based]
    if len(found) > CELLS:
        found = [one for one in found if one.seed == found[0].seed]
    return found


def problems(table: pa.Table) -> list[tuple[str, str]]:
    """Task and id of each problem of an evaluation, in its order."""
    both = zip(table["task"].to_pylist(), table["problem_id"].to_pylist(), strict=True)
    return list(dict.fromkeys(both))


def draw(asked: list[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """`most` of the problems in the order in which they were drawn, the tasks in turn."""
    tasks: dict[str, list[tuple[str, str]]] = {}
    for problem in sorted(asked, key=lambda one: seeds.number("page", one[1])):
        tasks.setdefault(problem[0], []).append(problem)
    turns = zip_longest(*(tasks[name] for name in sorted(tasks)))
    return [problem for turn in turns for problem in turn if problem is not None][:most]


def _kinds(table: pa.Table) -> list[Kind]:
    """The answers that can be chosen: the first sampled one, the greedy one, then more samples."""
    sampled = table.filter(pc.equal(table["decoding"], "sampled"))["sample"]
    last = -1 if not len(sampled) else int(pc.max(sampled).as_py())
    kinds = [("sampled", i) for i in range(min(last + 1, SAMPLES))]
    greedy = [("greedy", 0)] if pc.any(pc.equal(table["decoding"], "greedy")).as_py() else []
    return [*kinds[:1], *greedy, *kinds[1:]]


def _rows(one: Evaluated, drawn: list[tuple[str, str]], kinds: list[Kind]) -> Table:
    """The rows of an evaluation that are shown."""
    wanted, known = pa.array([name for _, name in drawn], pa.string()), set(kinds)
    found: Table = {}
    path = folder("evaluate", one.key) / "evals.parquet"
    for group in tables.stream(path, schemas.EVALS, COLUMNS):
        for row in group.filter(pc.is_in(group["problem_id"], wanted)).to_pylist():
            kind = (row["decoding"], row["sample"])
            if kind in known:
                row["response"] = _cut(row["response"])
                found[kind, row["problem_id"]] = row
    return found


def _prompts(path: Path, drawn: list[tuple[str, str]]) -> dict[str, tuple[Shown, Shown]]:
    """Problem and wanted answer by id."""
    wanted = pa.array([name for _, name in drawn], pa.string())
    found = {}
    for group in tables.stream(path, schemas.PROMPTS, ["prompt_id", "prompt", "answer"]):
        for row in group.filter(pc.is_in(group["prompt_id"], wanted)).to_pylist():
            found[row["prompt_id"]] = (_cut(row["prompt"]), _cut(row["answer"]))
    return found


def _tallies(sources: Mapping[str, Source], pair: Pair, kinds: list[Kind]) -> list[list[int]]:
    """Of every problem, by kind: now right, now wrong, both right, both wrong."""
    base, own = (sources[one.source].table(one) for one in pair[:2])
    found = []
    for kind in kinds:
        after, before = _grades(own, kind), _grades(base, kind)
        cases = (after & ~before, ~after & before, after & before, ~after & ~before)
        found.append([int(case.sum()) for case in cases])
    return found


def _grades(table: pa.Table, kind: Kind) -> np.ndarray:
    """Whether each problem's answer of a kind is right, in the order of the problems' ids."""
    same = pc.and_(pc.equal(table["decoding"], kind[0]), pc.equal(table["sample"], kind[1]))
    part = table.filter(same).sort_by("problem_id")
    return np.asarray(part["correct"].to_numpy(zero_copy_only=False), bool)


def _encode(
    pairs: Sequence[Pair],
    rows: dict[Evaluated, Table],
    prompts: dict[str, tuple[Shown, Shown]],
    asked: list[tuple[str, str]],
    drawn: list[tuple[str, str]],
    kinds: list[Kind],
) -> dict[str, Any]:
    """The data of the problems `drawn`, in the order in which they were asked."""
    chosen, texts = set(drawn), _Texts()
    order = [problem for problem in asked if problem in chosen]
    tasks = sorted({task for task, _ in asked})
    data: dict[str, Any] = {
        "total": len(asked),
        "tasks": tasks,
        "kinds": [f"sample {i + 1}" if how == "sampled" else how for how, i in kinds],
        "problems": [
            [name, tasks.index(task), *map(texts, prompts.get(name, (None, None)))]
            for task, name in order
        ],
        "bases": {},
        "views": [],
    }
    numbers: dict[Evaluated, str] = {}
    for before, after, (base, name) in pairs:
        if before not in numbers:
            numbers[before] = str(len(numbers))
            data["bases"][numbers[before]] = _answers(rows[before], order, kinds, texts)
        answers = _answers(rows[after], order, kinds, texts)
        view = {"arm": name, "seed": after.seed, "round": after.round, "answers": answers}
        data["views"].append(view | {"base": numbers[before], "versus": base})
    return data | {"texts": texts.shown()}


def _answers(
    found: Table, order: list[tuple[str, str]], kinds: list[Kind], texts: _Texts
) -> list[list[list[int] | None]]:
    """Of each problem by kind."""
    return [[_answer(found.get((kind, name)), texts) for kind in kinds] for _, name in order]


def _answer(row: dict[str, Any] | None, texts: _Texts) -> list[int] | None:
    """[text, final answer or -1, right + 2 * cut off, tokens]; None where it was not asked."""
    if row is None:
        return None
    flags = int(row["correct"]) + 2 * (row["finish_reason"] != "stop")
    return [
        texts(row["response"]),
        texts(None if row["extracted"] is None else _cut(row["extracted"])),
        flags,
        row["tokens"],
    ]


def _cut(text: str) -> Shown:
    if len(text) <= BEGIN + END:
        return text
    return text[:BEGIN], len(text) - BEGIN - END, text[-END:]
