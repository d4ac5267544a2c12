"""train.parquet in the schema of verl's RL datasets (read by that of verl 0.9.1).

`RLHFDataset` reads data_source, prompt, ability, reward_model and extra_info, and hands extra_info
to a custom reward function or dataset class. There lie the rollout's token ids, weights and masks:
verl's own trainers sample anew and know no such field. A row is a rollout, so that a prompt stands
as often as it was answered.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.commands.exports.jsonl import KEPT, per_token
from pipeline.commands.exports.source import Source
from pipeline.commands.exports.trained import Trained, messages, trained
from pipeline.commands.exports.trained import write as parquet
from pipeline.data.schemas import column

IDS = pa.list_(pa.int32())
MASK = pa.list_(pa.int8())
EXTRA = pa.struct(
    [
        column("split", pa.string()),
        column("index", pa.int64()),
        column("rollout_id", pa.string()),
        column("prompt_id", pa.string()),
        column("sample", pa.int32()),
        column("round", pa.int32()),
        column("prompt_token_ids", IDS),
        column("token_ids", IDS),
        column("logprobs", pa.list_(pa.float32())),  # nats, of the policy that wrote the tokens
        column("weights", pa.list_(pa.float32())),
        column("signal_mask", MASK),
        column("anchor_mask", MASK),
        column("text", pa.string()),
        column("finish_reason", pa.string()),
        column("reward", pa.float32(), nullable=True),
    ]
)
VERL = pa.schema(
    [
        column("data_source", pa.string()),
        column(
            "prompt",
            pa.list_(pa.struct([column("role", pa.string()), column("content", pa.string())])),
        ),
        column("ability", pa.string()),
        column(
            "reward_model",
            pa.struct([column("style", pa.string()), column("ground_truth", pa.string())]),
        ),
        column("extra_info", EXTRA),
    ]
)


def write(source: Source, folder: Path) -> None:
    asked, rows = messages(source), trained(source)
    found = (row(x, asked[x.row["prompt_id"]], index) for index, x in enumerate(rows))
    parquet(found, folder / "train.parquet", VERL)


def row(found: Trained, prompt: dict[str, Any], index: int) -> dict[str, Any]:
    extra = {"split": "train", "index": index, **{name: found.row[name] for name in KEPT}}
    extra |= {name: found.row[name] for name in ("prompt_token_ids", "token_ids")}
    extra |= per_token(found)
    extra |= {name: found.row[name] for name in ("text", "finish_reason", "reward")}
    return {
        "data_source": prompt["task"],
        "prompt": json.loads(prompt["messages"]),
        "ability": prompt["task"],
        "reward_model": {"style": "rule", "ground_truth": prompt["answer"]},
        "extra_info": extra,
    }
