"""data.parquet, settings.json, loss.py and train.py for TRL's SFTTrainer (checked with 1.16).

The dataset is prepared already: input_ids and labels as SFTTrainer names them, and beside them, of
the same length, the weights and masks. loss.py needs torch alone; train.py is an SFTTrainer whose
compute_loss calls it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer

from pipeline.commands.exports.source import Source
from pipeline.commands.exports.trained import Trained, trained
from pipeline.commands.exports.trained import write as parquet
from pipeline.data.schemas import column
from pipeline.engines import checkpoints

IGNORED = -100  # a label that is no target
HERE = Path(__file__).parent
TRL = pa.schema(
    [
        column("rollout_id", pa.string()),
        column("input_ids", pa.list_(pa.int32())),  # prompt and response
        column("labels", pa.list_(pa.int32())),  # the response; -100 on the prompt
        column("weights", pa.list_(pa.float32())),
        column("signal_mask", pa.list_(pa.int8())),
        column("anchor_mask", pa.list_(pa.int8())),
        column("rollout_logprobs", pa.list_(pa.float32())),  # nats, of the policy that wrote it
    ]
)


def write(source: Source, folder: Path) -> None:
    parquet(map(row, trained(source)), folder / "data.parquet", TRL)
    text = json.dumps(settings(source), indent=1) + "\n"
    (folder / "settings.json").write_text(text, encoding="utf-8")
    for name in ("loss", "train"):
        shutil.copyfile(HERE / f"trl_{name}.py", folder / f"{name}.py")


def row(found: Trained) -> dict[str, Any]:
    prompt, tokens = found.row["prompt_token_ids"], found.tokens
    nothing = [0] * len(prompt)
    return {
        "rollout_id": found.row["rollout_id"],
        "input_ids": [*prompt, *found.row["token_ids"]],
        "labels": [IGNORED] * len(prompt) + found.row["token_ids"],
        "weights": nothing + tokens.weight_T.tolist(),
        "signal_mask": nothing + tokens.signal_T.astype(int).tolist(),
        "anchor_mask": nothing + tokens.anchor_T.astype(int).tolist(),
        "rollout_logprobs": nothing + found.row["logprobs"],
    }


def settings(source: Source) -> dict[str, Any]:
    """The settings of loss.py and train.py: the arm's own numbers."""
    p = source.train
    return {
        "beta": p["beta"],
        "reduce": p["reduce"],
        "correction": p["correction"],
        "unused_ids": unused_ids(checkpoints.check(source.policy)),
        "bfloat16": _config(source.policy).get("dtype") == "bfloat16",
        "lr": p["lr"],
        "betas": list(p["betas"]),
        "clip": p["clip"],
        "warmup_steps": p["warmup_steps"],
        "batch_size": p["batch_size"],
        "micro_batch_size": p["micro_batch_size"],
        "epochs": p["epochs"],
        "seed": source.seed,
    }


def unused_ids(checkpoint: Path) -> list[int]:
    """Ids of the head for which the tokenizer has no token: no objective gives them probability."""
    config = _config(checkpoint)
    size = (config.get("text_config") or config)["vocab_size"]
    known = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).get_vocab().values()
    return sorted(set(range(size)) - set(known))


def _config(checkpoint: Path) -> dict[str, Any]:
    return dict(
        json.loads((checkpoints.base(checkpoint) / "config.json").read_text(encoding="utf-8"))
    )
