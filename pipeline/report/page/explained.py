"""What columns and arms are, in words: titles on the page, and lists below the results."""

from typing import Any

from pipeline.report.page.blocks import Row

COLUMNS = {  # by the head of a column, as far as it stands before an @
    "arm": "a way to train the same student; base is the student before any training",
    "sampled avg": "mean share of a problem's sampled answers that are right; in brackets the 95 % "
    "interval, see above the table",
    "log odds": "log of right to wrong answers: steps near 0 and 1 count for more than by accuracy",
    "difference to base": "accuracy minus that of the untrained student, paired by problem; the "
    "marks beside it draw value and interval, the thin line is zero and dots are single seeds",
    "difference": "accuracy of the first arm minus that of the second, paired by problem",
    "greedy": "accuracy where the likeliest token is taken each time; it decides nothing here",
    "pass": "share of problems of which at least one sampled answer is right",
    "cut off": "share of the sampled answers that the length limit ended",
    "no answer": "share of the sampled answers in which no final answer was found",
    "tokens": "mean length of a sampled answer",
    "seeds": "how often the whole experiment was run",
    "teacher tokens": "what the teacher wrote and the arm was trained on, over all its rounds; "
    "what arms share counts for each",
    "bought": "teacher tokens that these runs asked for, rather than found in the store",
    "seconds": "what the arm's cells took, over all its rounds; what arms share counts for each",
    "versus": "the arm that is subtracted",
    "p": "two-sided p-value, before any correction",
    "control": "whose scores took the place of the real ones",
    "real scores": "accuracy after the round as it was",
    "control's": "accuracy after the same round, trained with the control's scores",
    "metric": "what measures the similarity of a continuation with the student's chunk",
    "C": "tokens of a chunk to which both texts were cut",
}
OBJECTIVES = {
    "omniopd": "learns its own chunks at forks, each by the weight that the teacher's "
    "continuations give it",
    "opd": "follows the teacher's probabilities of all tokens, along its own responses",
    "opd-sampled": "follows the teacher's probability of the tokens that it sampled itself",
    "opd-forks": "follows the teacher's probabilities of all tokens, at the audited chunks alone",
    "gkd": "follows the teacher's probabilities by a Jensen-Shannon divergence, along its own "
    "responses",
    "sft": "imitates whole solutions that the teacher wrote",
    "imitate-forks": "imitates the teacher's continuations at the forks",
    "preference": "prefers the teacher's continuations at the forks to its own chunks, by pairs",
    "soda": "prefers the teacher's whole solutions to the untrained student's responses, by pairs",
    "state-value": "reinforces the stretches of its responses after which more of the teacher's "
    "continuations end right",
    "repair": "imitates its own responses, in which the teacher wrote a stretch where it disagreed",
    "one-sided": "makes its own improbable tokens rarer; no teacher is asked (a control)",
    "grpo": "reinforces its own responses that the checker finds better than others of the problem",
    "rft": "imitates its own responses that the checker finds right",
}
SCORES = {
    "shuffled": "the scores change places between forks (a control)",
    "zero": "every score is zero (a control)",
}
PRIORS = {
    "constant": "every chunk has the same weight (a control)",
    "random": "the scores are drawn at random (a control)",
    "none": "weights come from the student's own confidence alone (a control)",
    "teacher": "weights come from the teacher's probability of the chunk",
    "shuffled-weights": "the weights change places between chunks (a control)",
}
SCORED = ("omniopd",)  # objectives that the scores reach
AT_FORKS = (*SCORED, "imitate-forks", "preference", "state-value", "repair")


def column(head: str) -> str:
    """What a column of this head holds; empty where the head says it all."""
    return COLUMNS.get(head.partition("@")[0].strip(), "")


def columns(heads: list[str]) -> list[tuple[str, str]]:
    """Each head that needs it, with its explanation."""
    return [(head, column(head)) for head in dict.fromkeys(heads) if column(head)]


def arms(names: list[str], settings: dict[str, Row], teachers: dict[str, str]) -> dict[str, str]:
    """A sentence about each arm, of what its settings say."""
    said = {"base": "The student before any training."} if "base" in names else {}
    return said | {
        name: _arm(settings[name], len(teachers) > 1) for name in names if name in settings
    }


def _arm(own: dict[str, Any], several: bool) -> str:
    objective = own["train"]["objective"]
    parts = [OBJECTIVES.get(objective, f"trains by the objective {objective} of this project")]
    if objective in SCORED:
        found = SCORES.get(own["score"]["source"]), PRIORS.get(own["prior"]["source"])
        parts += [text for text in found if text]
    if own["forks"]["scheduler"] != "peak-entropy" and objective in AT_FORKS:
        parts.append(f"forks are placed by {own['forks']['scheduler']}")
    if own["forks"].get("gate"):
        parts.append("prompts that the teacher itself fails are not audited")
    if several and objective not in ("grpo", "rft", "one-sided"):
        names = own["teach"]["teacher"]
        asked = [names] if isinstance(names, str) else names
        parts.append(f"teacher {' and '.join(asked)}")
    if own["teach"].get("problem", "own") != "own":
        parts.append("the teacher sees another problem (a control)")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
