"""Signs of collapse by arm and round, as train cells left them in their run.json.

pipeline/training/collapse.py says what each is. A sign is of the rollouts and weights that a round
began with, so that of round r is what r - 1 rounds made of the student.
"""

from collections.abc import Iterable, Sequence

from tabulate import tabulate

from pipeline.stage.run_records import Arms, Row, rounds, run_json
from pipeline.training.collapse import SIGNS

PREFIX = "collapse/"  # of the counts in run.json
HEADS = {  # by sign: the head of its column, and how a value is written
    "tokens": ("tokens", "{:.1f}"),
    "repeated": ("repeated", "{:.1%}"),
    "entropy": ("entropy", "{:.3f}"),
    "weights_at_0": ("weights at 0", "{:.0%}"),
    "weights_at_1": ("weights at 1", "{:.0%}"),
    "effective_chunks": ("effective chunks", "{:,.0f}"),
    "drift": ("drift", "{:.2g}"),
}
LEAD = (
    "Of each round's own rollouts and weights, before it was trained on; drift is the largest of "
    "its steps, nats a token. Means over seeds, of an arm's first and last round. Repeated is the "
    "share of a response's stretches of four tokens that stand earlier in it, entropy is nats a "
    "token, effective chunks are (sum w)^2 / (sum w^2) of the chunks' weights. Block alarms stops "
    "a run at any of these."
)


def rows(arms: Arms) -> list[Row]:
    """One row per arm, seed and trained round; null where an objective reads no such table."""
    found = []
    for arm, seed, round_, own in rounds(arms):
        if "train" in own:
            run = run_json("train", own["train"])
            signs = {sign: run.get(PREFIX + sign) for sign in SIGNS}
            if any(value is not None for value in signs.values()):
                found.append({"arm": arm, "seed": seed, "round": round_, **signs})
    return found


def table(found: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and body: a line for the first and the last round of each arm, means over seeds."""
    by_arm: dict[str, dict[int, list[Row]]] = {}
    for row in found:
        by_arm.setdefault(row["arm"], {}).setdefault(row["round"], []).append(row)
    body = [
        [arm, str(round_), *(_mean(by_round[round_], sign) for sign in SIGNS)]
        for arm, by_round in by_arm.items()
        for round_ in sorted({min(by_round), max(by_round)})
    ]
    return ["arm", "round", *(HEADS[sign][0] for sign in SIGNS)], body


def _mean(found: Sequence[Row], sign: str) -> str:
    values = [row[sign] for row in found if row[sign] is not None]
    return HEADS[sign][1].format(sum(values) / len(values)) if values else ""


def section(found: Sequence[Row]) -> str:
    """The part of results.md, or nothing."""
    if not found:
        return ""
    head, body = table(found)
    drawn = tabulate(body, head, tablefmt="github", disable_numparse=True)
    return f"## Signs of collapse\n\n{LEAD}\n\n{drawn}"
