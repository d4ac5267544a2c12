"""The costs of arms, from their cells' run.json: tokens, dollars, optimizer steps, seconds.

Four ways to count what a teacher was asked for:

    used    in the answers tables of the arm's rounds
    trained of these, what was trained on: less than used where experiment.match cut a round by it
    alone   what the arm would have bought from an empty store, failed draws included
    bought  what these runs bought rather than found in the store; beside a rollout, too (ahead_*)

Used, trained and alone count a cell that arms share for each of them. Bought and spent count it
once, for the first arm of the plan that uses it, so that their sums are those of the experiment.
A stage that reran found its answers in the store: then nothing is bought, and alone is the
figure to compare by. Pretraining is nobody's cost. A control that reads another arm's targets asks
no teacher; what those took is the other arm's.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.stage.run_records import AFTER, Arms, Row, rounds, run_json


@dataclass(frozen=True)
class Cost:
    """The cost of one cell, of a round, or of all rounds up to one."""

    rollouts: int = 0  # responses that the student sampled to train on
    student_tokens_sampled: int = 0
    student_tokens_trained: int = 0  # tokens with a loss, in every epoch
    optimizer_steps: int = 0
    prompt_tokens_used: int = 0  # each answer with its whole prompt
    tokens_in_tables: int = 0  # completion tokens of teacher answers, cut as in the table
    tokens_used: int = 0  # of them, trained on; the same unless experiment.match cut by them
    prompt_tokens_alone: int = 0  # a prompt once for each request
    tokens_alone: int = 0  # as the teacher counts them, uncut
    usd_alone: float | None = 0.0  # None: a teacher without a price answered
    prompt_tokens_bought: int = 0
    tokens_bought: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    draws: int = 0  # of teacher answers, failed ones included
    failed: int = 0

    @property
    def failure_rate(self) -> float | None:
        """Share of the teachers' draws that failed; None where no teacher was asked."""
        return self.failed / self.draws if self.draws else None

    def __add__(self, other: "Cost") -> "Cost":
        mine, theirs = asdict(self), asdict(other)
        unknown = self.usd_alone is None or other.usd_alone is None
        sums = {name: mine[name] + theirs[name] for name in mine if name != "usd_alone"}
        known = (self.usd_alone or 0.0) + (other.usd_alone or 0.0)
        return Cost(**sums, usd_alone=None if unknown else known)


COLUMNS = {  # of costs.json: those of Cost that count for each arm
    "rollouts": "rollouts",
    "student_tokens_sampled": "student_tokens_sampled",
    "student_tokens_trained": "student_tokens_trained",
    "optimizer_steps": "optimizer_steps",
    "teacher_tokens_in_used": "prompt_tokens_used",
    "teacher_tokens_out_used": "tokens_in_tables",
    "teacher_tokens_out_trained": "tokens_used",
    "teacher_tokens_in_alone": "prompt_tokens_alone",
    "teacher_tokens_out_alone": "tokens_alone",
    "usd_alone": "usd_alone",
    "seconds": "seconds",
}
LOOKS = ("calibrate", AFTER)  # no arm needs them
ONCE = {  # and those that count a shared cell for one arm only
    "teacher_tokens_in_bought": "prompt_tokens_bought",
    "teacher_tokens_out_bought": "tokens_bought",
    "usd_spent": "usd",
    "seconds_spent": "seconds",
}
MATCHED = (  # of a train cell that was capped
    "match",
    "cap",
    "used",
    "kept_prompts",
    "cut_prompts",
    "kept_responses",
    "cut_responses",
    "kept_steps",
    "cut_steps",
    "mean_weight",
    "mean_weight_uncut",
)


def of_cell(stage: str, run: dict[str, Any]) -> Cost:
    """The cost of one execution of a stage. `run` is its run.json."""
    seconds = float(run["seconds"])
    if stage in LOOKS:
        return Cost()
    match stage.partition("-")[0]:
        case "rollout":
            sampled = int(run["student_tokens"])
            rollouts = int(run["rows_out"])
            tokens = int(run.get("ahead_tokens_bought", 0))  # of answers that stage teach found
            return Cost(
                rollouts=rollouts,
                student_tokens_sampled=sampled,
                seconds=seconds,
                prompt_tokens_bought=int(run.get("ahead_tokens_billed", 0)) - tokens,
                tokens_bought=tokens,
                usd=float(run.get("ahead_usd", 0.0)),
            )
        case "train":
            trained = int(run["student_tokens"])
            steps = int(run.get("optimizer_steps", run["steps_per_round"]))  # of several rounds
            steps -= int(run.get("steps_without_signal", 0))  # were not taken
            return Cost(student_tokens_trained=trained, optimizer_steps=steps, seconds=seconds)
        case "teach":
            return Cost(
                prompt_tokens_used=int(run["prompt_tokens_used"]),
                tokens_in_tables=int(run["tokens_used"]),
                tokens_used=int(run["tokens_used"]),
                prompt_tokens_alone=int(run["prompt_tokens_alone"]),
                tokens_alone=int(run["tokens_alone"]),
                usd_alone=run.get("usd_alone"),
                prompt_tokens_bought=int(run["tokens_billed"]) - int(run["tokens_bought"]),
                tokens_bought=int(run["tokens_bought"]),
                usd=float(run["usd"]),
                seconds=seconds,
                draws=int(run["answers"]) + int(run["failed"]),
                failed=int(run["failed"]),
            )
    return Cost(seconds=seconds)


def of_round(cells: dict[str, str]) -> Cost:
    """The cost of all cells of a round; the base student's folder is none.

    Where the round was cut by what its answers took, tokens_used is what was left.
    """
    runs = {stage: run_json(stage, key) for stage, key in cells.items() if "/" not in key}
    total = _sum(of_cell(stage, run) for stage, run in runs.items())
    left = runs.get("train", {}).get("answer_tokens_kept")
    if left is None or not total.draws:
        return total
    return Cost(**asdict(total) | {"tokens_used": int(left)})


def cost(arms: Arms, arm: str, seed: int, last: int) -> Cost:
    """Sums over the arm's rounds 1 to `last`; a shared cell counts for every arm that uses it.

    A round in between that is evaluated as well costs the arm nothing.
    """
    return _sum(
        of_round(cells if round_ == last else {k: v for k, v in cells.items() if k != "evaluate"})
        for name, own, round_, cells in rounds(arms)
        if (name, own) == (arm, seed) and round_ <= last
    )


def rows(arms: Arms) -> list[Row]:
    """costs.json: one row per arm, seed and round, with the sums up to it as total_NAME.

    `shared_with` names the arms before it in the plan that have cells of the round too.
    """
    found: list[Row] = []
    owner: dict[str, str] = {}  # cell: the first arm that uses it
    totals: dict[tuple[str, int], Row] = {}
    for arm, seed, round_, cells in rounds(arms):
        own = {stage: key for stage, key in cells.items() if "/" not in key}
        others = {owner[key] for key in own.values() if key in owner}
        new = {stage: key for stage, key in own.items() if key not in owner}
        owner |= dict.fromkeys(new.values(), arm)
        whole, once = of_round(own), _sum(of_cell(s, run_json(s, k)) for s, k in new.items())
        values = {name: getattr(whole, field) for name, field in COLUMNS.items()}
        values |= {name: getattr(once, field) for name, field in ONCE.items()}
        before = totals.get((arm, seed), dict.fromkeys(values, 0))
        total = {name: _plus(before[name], value) for name, value in values.items()}
        totals[arm, seed] = total
        found.append(
            {"arm": arm, "seed": seed, "round": round_}
            | {name: _rounded(value) for name, value in values.items()}
            | {f"total_{name}": _rounded(value) for name, value in total.items()}
            | {"shared_with": sorted(others - {arm})}
            | _matched(own)
        )
    return found


def _matched(cells: dict[str, str]) -> Row:
    """The counts that experiment.match kept and cut of the round; null where it did not act."""
    run = run_json("train", cells["train"]) if "train" in cells else {}
    return {name: run.get(name) for name in MATCHED}


def _sum(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


def _plus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _rounded(value: float | None) -> float | None:
    return round(value, 6) if isinstance(value, float) else value
