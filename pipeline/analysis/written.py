"""What students write before and after training, where no task can grade it.

The trained student answers the prompts of the round that would have come next, or those of its last
round again where these were the last: plan/rounds.py. The untrained one answered those of round 1.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc

from pipeline.data import schemas, tables
from pipeline.stage.run_records import AFTER, Arms, Row, folder, rounds

READ = ("round", "text", "token_ids", "finish_reason")
WORDS = 4  # of a stretch that counts as repeated where the response had it before


def rows(arms: Arms, settings: dict[str, Any]) -> list[Row]:
    """One row per arm and seed that answered, arm base first: shares, and means over responses.

    `repeated` is the share of a response's stretches of four words that stand earlier in it.
    """
    found = [_row(*one) for one in _untrained(arms, settings)]
    found += [
        _row(arm, seed, round_, cells[AFTER], None)
        for arm, seed, round_, cells in rounds(arms)
        if AFTER in cells
    ]
    return found


def _untrained(arms: Arms, settings: dict[str, Any]) -> Iterator[tuple[str, int, int, str, int]]:
    """Rollouts of round 1 under each seed as of arm base: those of the first arm that has some.

    Those of another trainer (prepare.responses) are not the student's.
    """
    seen = set()
    for arm, seed, _, cells in rounds(arms):
        imported = settings.get(arm, {}).get("prepare", {}).get("responses", False)
        if "rollout" in cells and seed not in seen and not imported:
            seen.add(seed)
            yield "base", seed, 0, cells["rollout"], 1


def _row(arm: str, seed: int, round_: int, key: str, of: int | None) -> Row:
    """Counts over a rollout cell; of one round, where the cell holds several."""
    responses = tokens = cut = 0
    repeated = 0.0
    path = folder("rollout", key) / "rollouts.parquet"
    for group in tables.stream(path, schemas.ROLLOUTS, [*READ]):
        own = group if of is None else group.filter(pc.equal(group["round"], of))
        responses += len(own)
        tokens += pc.sum(pc.list_value_length(own["token_ids"])).as_py() or 0
        cut += pc.sum(pc.equal(own["finish_reason"], "length")).as_py() or 0
        repeated += sum(map(repetition, own["text"].to_pylist()))
    return {
        "arm": arm,
        "seed": seed,
        "round": round_,
        "responses": responses,
        "tokens": tokens / max(responses, 1),
        "cut_off": cut / max(responses, 1),
        "repeated": repeated / max(responses, 1),
    }


def repetition(text: str) -> float:
    """Share of a text's stretches of WORDS words that stand earlier in it; 0 of a short text."""
    words = text.split()
    found = [tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)]
    return 1 - len(set(found)) / len(found) if found else 0.0
