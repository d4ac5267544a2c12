"""rollouts.jsonl: a rollout a line. `omniopd import` reads such a file again."""

import json
from pathlib import Path
from typing import Any

from pipeline.commands.exports.source import Source
from pipeline.commands.exports.trained import Trained, messages, trained

KEPT = ("rollout_id", "prompt_id", "sample", "round")


def write(source: Source, folder: Path) -> None:
    asked = messages(source)
    with (folder / "rollouts.jsonl").open("w", encoding="utf-8") as out:
        for found in trained(source):
            line = row(found, json.loads(asked[found.row["prompt_id"]]["messages"]))
            out.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def row(found: Trained, prompt: list[dict[str, str]]) -> dict[str, Any]:
    """Lists over token_ids: logprobs of the policy that wrote them, weights and masks."""
    return {
        **{name: found.row[name] for name in KEPT},
        "messages": prompt,
        "prompt_token_ids": found.row["prompt_token_ids"],
        "token_ids": found.row["token_ids"],
        **per_token(found),
        "text": found.row["text"],
        "finish_reason": found.row["finish_reason"],
        "reward": found.row["reward"],
    }


def per_token(found: Trained) -> dict[str, list[float]]:
    return {
        "logprobs": found.row["logprobs"],
        "weights": found.tokens.weight_T.tolist(),
        "signal_mask": found.tokens.signal_T.astype(int).tolist(),
        "anchor_mask": found.tokens.anchor_T.astype(int).tolist(),
    }
