"""Looks by hand: an experiment of three arms in the midst of its second round."""

from pipeline.commands.status.look import Look, Told
from pipeline.commands.status.writers import Writer
from pipeline.judgments.ledger import Entry

STAGES = ("rollout", "forks", "teach", "score", "prior", "train")
ARMS = ("omniopd", "shuffled-scores", "opd")
TRAINING = {"step": 28, "loss": 1.25, "losses": [3.0, 2.0, 1.25], "weight": 0.5, "entropy": 0.75}


def writer(**state):
    return Writer(12, "host", "2026-11-30 11:00:00", state, True)


def told(stage, state, key, arm="omniopd", round_=2, **more):
    return Told(f"{stage}@c{key:08x}", arm, "seed-0", f"{stage} round {round_}", state, **more)


def look(rounds=3):
    """Round 1 is done; in round 2 omniopd trains, opd failed, shuffled-scores waits."""
    cells, own = [told("pretrain", "done", 0, "base", 0, seconds=20.0)], {}
    own["base"] = {"round-0": {cells[0].cell}}
    for arm in ARMS:
        for round_ in range(1, rounds + 1):
            for stage in STAGES:
                state, more = _state(arm, round_, stage)
                cells.append(told(stage, state, len(cells), arm, round_, **more))
                own.setdefault(arm, {}).setdefault(f"round-{round_}", set()).add(cells[-1].cell)
    spent = Entry(bought=3200, requests=2310, usd=1.25)
    title = "study: omniopd and 3 more arms, 3 rounds, 1 seed"
    return Look(cells, ["`omniopd run`"], spent, {"refusal": 12}, [], title, own)


def _state(arm, round_, stage):
    if round_ == 1:
        return "done", {"seconds": 10.0}
    match (arm, round_, stage):
        case ("omniopd", 2, "train"):
            bar = writer(what="train", done=30, total=120, per_second=0.5)
            return "running", {"seconds": 4.0, "writer": bar, "training": TRAINING}
        case ("omniopd", 2, _):
            return "cached", {}
        case ("opd", 2, "teach"):
            return "failed", {"reason": "found status 401, wanted an answer. " * 9}
    return "waiting", {}
