"""What a report says of arms that no task could grade."""

from collections.abc import Sequence

from tabulate import tabulate

from pipeline.analysis.intervals import interval
from pipeline.stage.run_records import Row

UNGRADED = (
    "Trained, not evaluated: the task has no checker, so nothing here says that a student got "
    "better. "
)
LEAD = (
    "What can be seen is how far the teacher agrees with what it writes: the similarity of "
    "the teacher's continuations with the student's chunks, mean over the round's prompts, which "
    "its student was not trained on. Round 1 is the untrained student, round r the student after "
    "r - 1 rounds. Brackets are 95 % bootstrap intervals over prompts, conditional on this run. A "
    "student may agree more by writing what is easy to agree with: read what it writes. The "
    "trained students answered the prompts of the round that would have come next (of their last "
    "round, where the file holds no more). Repeated is the share of a response's stretches of four "
    "words that stand earlier in it."
)
HELD_OUT = (
    "How far the teacher agrees with students on prompts that nothing was trained on: those of the "
    "round that would have come next, answered by the untrained student (base) and by each arm "
    "after its last round. Answers: whole responses, compared with the teacher's own answers. "
    "Forks: the student's chunks at its forks, compared with how the teacher goes on there. Itself "
    "is how much two of the teacher's answers in one place are alike: what another draw of the "
    "teacher would get. A student that always writes the teacher's commonest answer can get more. "
    "Elsewhere is how much they are alike at different prompts, which is worth nothing. Brackets "
    "are 95 % bootstrap intervals over prompts, differences are paired by prompt, both conditional "
    "on this run. Each line is one student, and what is said of several is not adjusted for how "
    "many there are. It is agreement, not correctness: a student that agrees more writes more as "
    "the teacher does."
)
JUDGED = (
    "A judge was shown two answers to the same prompt, one of the untrained student and one of an "
    "arm after its last round, in both orders, on prompts that nothing was trained on. Share is "
    "the mean over replies of 1 where the arm's answer won, 1/2 for a tie and 0 where it lost, "
    "then over prompts: above .5 the judge prefers the arm. A reply without a verdict (unread) "
    "counts as a tie. Consistent is the share of pairs of which both orders have the same verdict: "
    "where it is low the judge goes by the place. Brackets are 95 % bootstrap intervals over "
    "prompts, conditional on this run. Each line is one student, and what is said of several is "
    "not adjusted for how many there are. It is one judge's taste, which may be for length, for "
    "style or for its own words."
)
HALF = 0.5  # the share of a student that is as good
COUNTED = ("won", "tied", "lost", "unread")
MOST_UNREAD = 0.25  # of the replies; an unread one counts as a tie
COLUMNS = ("arm", "of", "seed", "metric", "agreement", "diff to base", "itself", "elsewhere")


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and body: a line for each arm, seed and teacher, a column for each round."""
    rounds = sorted({row["round"] for row in rows})
    names = ["arm", "metric"]
    names += [name for name in ("seed", "teacher") if len({row[name] for row in rows}) > 1]
    lines: dict[tuple[str, ...], dict[int, str]] = {}
    for row in rows:
        key = tuple("" if row[name] is None else str(row[name]) for name in names)
        shown = "no fork"
        if row["prompts"]:
            shown = interval(row["similarity"], row["low"], row["high"])
        lines.setdefault(key, {})[row["round"]] = shown
    head = [*names, *(f"round {n}" for n in rounds)]
    return head, [[*key, *(by.get(n, "") for n in rounds)] for key, by in lines.items()]


def answers(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and body: what the students write, a line for each arm and seed."""
    several = len({row["seed"] for row in rows}) > 1
    head = ["arm", *["seed"] * several, "responses", "tokens each", "cut off", "repeated"]
    return head, [
        [
            row["arm"],
            *[str(row["seed"])] * several,
            f"{row['responses']:,}",
            f"{row['tokens']:.1f}",
            f"{row['cut_off']:.1%}",
            f"{row['repeated']:.1%}",
        ]
        for row in rows
    ]


def tables(
    agreement: Sequence[Row], written: Sequence[Row]
) -> list[tuple[list[str], list[list[str]]]]:
    """Those that have a line: agreement round by round, and what the students write."""
    return [one for one in (table(agreement), answers(written)) if one[1]]


def looks(held_out: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and body of agreement on held-out prompts: a line for each look, arm and seed."""
    several = len({row["seed"] for row in held_out}) > 1
    names = [name for name in COLUMNS if name != "seed" or several]
    return names, [[_looked(row)[name] for name in names] for row in held_out]


def _looked(row: Row) -> dict[str, str]:
    agreement, diff = "no fork", ""
    if row["similarity"] is not None:
        agreement = interval(row["similarity"], row["low"], row["high"])
    if row["diff"] is not None:
        diff = interval(row["diff"], row["diff_low"], row["diff_high"], "+")
    levels = ("" if row[name] is None else f"{row[name]:.3f}" for name in ("itself", "others"))
    shown = (row["arm"], row["of"], _seed(row), row["metric"] or "", agreement, diff, *levels)
    return dict(zip(COLUMNS, shown, strict=True))


def seen(held_out: Sequence[Row]) -> list[str]:
    """A sentence on each arm and look: agrees more, less, or no difference was seen."""
    found = []
    for row in _summed(held_out):
        if row["diff"] is None:
            continue
        verb = "agrees more with the teacher than base"
        if row["diff_high"] < 0:
            verb = "agrees less with the teacher than base"
        elif row["diff_low"] <= 0:
            verb = "was not seen to agree more or less than base"
        seed = _where(row, held_out)
        how = interval(row["diff"], row["diff_low"], row["diff_high"], "+")
        found.append(f"{row['arm']}{seed}: {verb}, {row['of']}: {how}.")
    return found


def _seed(row: Row) -> str:
    return "mean" if row["seed"] is None else str(row["seed"])


def _summed(rows: Sequence[Row]) -> list[Row]:
    """Rows over seeds in the place of those that they are of."""
    pooled = {(row["arm"], row.get("of")) for row in rows if row["seed"] is None}
    return [r for r in rows if r["seed"] is None or (r["arm"], r.get("of")) not in pooled]


def _where(row: Row, rows: Sequence[Row]) -> str:
    """Which of several seeds a row is of."""
    seeds = {one["seed"] for one in rows} - {None}
    if len(seeds) < 2:
        return ""
    return f" ({len(seeds)} seeds)" if row["seed"] is None else f" (seed {row['seed']})"


def held_out_lead(graded: bool) -> str:
    """What the section on held-out prompts begins with."""
    return HELD_OUT if graded else f"The task has no checker, so no answer is graded. {HELD_OUT}"


def judged(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and body of what a judge prefers: a line for each arm and seed."""
    several = len({row["seed"] for row in rows}) > 1
    head = ["arm", *["seed"] * several, "judge", "share", *COUNTED, "consistent", "prompts"]
    return head, [
        [
            row["arm"],
            *[_seed(row)] * several,
            row["judge"],
            interval(row["share"], row["low"], row["high"]),
            *(str(row[name]) for name in COUNTED),
            "" if row["consistent"] is None else f"{row['consistent']:.0%}",
            str(row["prompts"]),
        ]
        for row in rows
    ]


def preferred(rows: Sequence[Row]) -> list[str]:
    """A sentence on each arm: the judge prefers it, prefers base, or no preference was seen."""
    found = []
    for row in _summed(rows):
        said = f"{row['judge']} prefers neither it nor base, as far as was seen"
        if row["low"] > HALF:
            said = f"{row['judge']} prefers it to base"
        elif row["high"] < HALF:
            said = f"{row['judge']} prefers base to it"
        seed = _where(row, rows)
        if doubts := _doubts(row):
            said = f"{row['judge']} is no judge of these answers, as {' and '.join(doubts)}"
        share = interval(row["share"], row["low"], row["high"])
        found.append(f"{row['arm']}{seed}: {said}, share {share}.")
    return found


def _doubts(row: Row) -> list[str]:
    """Why a judge's preference means nothing; empty where it may mean something."""
    found = []
    replies = sum(row[name] for name in COUNTED)
    if row["unread"] > MOST_UNREAD * replies:
        found.append(f"{row['unread']} of its {replies} replies have no verdict")
    if row["consistent"] is None:
        found.append("no pair got a verdict in both orders")
    elif row["consistent"] <= HALF:
        same = f"{row['consistent']:.0%} of the pairs got the same verdict in both orders"
        found.append(f"{same} (a coin: 50%)")
    return found


def judged_lead(graded: bool) -> str:
    """What the section on a judge begins with."""
    return JUDGED if graded else f"The task has no checker, so no answer is graded. {JUDGED}"


def looked(held_out: Sequence[Row], compared: Sequence[Row], graded: bool) -> str:
    """The sections of results.md on held-out prompts; nothing where nobody asked.

    What was seen is a section of its own where nothing is `graded`, or grades have one.
    """
    parts, said = [], []
    if held_out:
        parts += [
            "## Agreement on held-out prompts",
            held_out_lead(graded),
            _shown(looks(held_out)),
        ]
        said += seen(held_out)
    if compared:
        title = "## Judged beside the untrained student"
        parts += [title, judged_lead(graded), _shown(judged(compared))]
        said += preferred(compared)
    if said:
        parts += ["## What was seen"] * (not graded)
        parts.append("\n".join(f"- {sentence}" for sentence in said))
    return "\n\n".join(parts)


def _shown(table: tuple[list[str], list[list[str]]]) -> str:
    head, body = table
    return tabulate(body, head, tablefmt="github", disable_numparse=True)


def markdown(agreement: Sequence[Row], written: Sequence[Row], evaluated: bool) -> str:
    """The section of results.md; a round that scored nothing is left out."""
    parts = list(map(_shown, tables(agreement, written)))
    head = ["## Round by round"] if evaluated else []  # after sections of its own
    return "\n\n".join([*head, lead(evaluated), *parts])


def lead(evaluated: bool) -> str:
    """What the section of arms without a grade begins with, `evaluated` in another way or not."""
    return LEAD if evaluated else UNGRADED + LEAD
