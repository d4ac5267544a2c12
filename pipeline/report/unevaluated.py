"""What a report says of arms that no task could grade."""

from collections.abc import Sequence

from tabulate import tabulate

from pipeline.analysis.intervals import interval
from pipeline.stage.run_records import Row

LEAD = (
    "Trained, not evaluated: the task has no checker, so nothing here says that a student got "
    "better. What can be seen is how far the teacher agrees with what it writes: the similarity of "
    "the teacher's continuations with the student's chunks, mean over the round's prompts, which "
    "its student was not trained on. Round 1 is the untrained student, round r the student after "
    "r - 1 rounds. Brackets are 95 % bootstrap intervals over prompts, conditional on this run. A "
    "student may agree more by writing what is easy to agree with: read what it writes. The "
    "trained students answered the prompts of the round that would have come next (of their last "
    "round, where the file holds no more); the teacher was not asked about these. Repeated is the "
    "share of a response's stretches of four words that stand earlier in it."
)


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


def markdown(agreement: Sequence[Row], written: Sequence[Row]) -> str:
    """The section of results.md; a round that scored nothing is left out."""
    shown = tables(agreement, written)
    parts = [tabulate(body, head, tablefmt="github", disable_numparse=True) for head, body in shown]
    return "\n\n".join([LEAD, *parts])
