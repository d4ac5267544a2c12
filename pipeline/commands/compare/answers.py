"""What an arm of one experiment wrote beside what the same arm wrote in the first one."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.analysis.results import Evals
from pipeline.commands.compare.compared import same_problems
from pipeline.commands.compare.found import Experiment
from pipeline.commands.compare.views import View
from pipeline.report.page.answers.data import Evaluated, Pair, Source, evaluated, paired, problems

PROMPTS = "prompts.parquet"
Evaluations = dict[str, dict[tuple[str, int], Evaluated]]  # by experiment; by arm and seed


def view(found: Sequence[Experiment]) -> dict[str, Any] | None:
    """The data of the answers view. None where no two evaluations can be put side by side."""
    views = {one.name: View(one) for one in found}
    sources = {one.name: _source(one, views[one.name]) for one in found}
    own: Evaluations = {
        name: {(x.arm, x.seed): replace(x, source=name) for x in evaluated(source.evals)}
        for name, source in sources.items()
    }
    pairs = list(_pairs(found, own, sources))
    first = found[0]
    prompts = views[first.name].file(first.prompts / PROMPTS) if first.prompts else None
    every = {seed for source in sources.values() for _, seed, _ in source.evals.tables}
    left = sorted(every - {seed for shown in own.values() for _, seed in shown})
    return paired(pairs, sources, prompts, left)


def _source(one: Experiment, view: View) -> Source:
    missing = view.missing()
    arms = [arm for arm in one.arms if arm not in missing]
    with view.opened(arms):
        evals = Evals({arm: one.arms[arm] for arm in arms})
    return Source(evals, functools.partial(view.opened, arms))


def _pairs(
    found: Sequence[Experiment], own: Evaluations, sources: Mapping[str, Source]
) -> Iterator[Pair]:
    """Each arm and seed that differs from the first's, on the problems of the first pair."""
    first, asked = found[0], None
    for one in found[1:]:
        if not same_problems(one, first):
            continue
        for place, after in own[one.name].items():
            before = own[first.name].get(place)
            if before is None or before.key == after.key:
                continue
            sets = [problems(sources[x.source].table(x)) for x in (before, after)]
            asked = asked or sets[0]
            if sets[0] == sets[1] == asked:
                names = (f"{place[0]}, {first.name}", f"{place[0]}, {one.name}")
                yield Pair(before, after, names)
