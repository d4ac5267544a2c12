"""`omniopd export`: a round of an arm, or the targets of an audit, for somebody else's tools.

hf     the checkpoint with a model card
jsonl  a rollout a line: token ids, and per token the weight and where signal and anchor act
trl    the same as a dataset for TRL's SFTTrainer, with the loss that consumes it
verl   the same in the schema of verl's RL datasets

What `trl`, `verl` and `jsonl` hold is what the arm itself trains on
(pipeline/commands/exports/trained.py).
"""

from pathlib import Path
from typing import Literal

from pipeline.commands.exports.source import Source
from pipeline.core.errors import UserError
from pipeline.engines.checkpoints import replacing_folder

Format = Literal["hf", "trl", "verl", "jsonl"]


def export(source: Source, to: Format, out: Path) -> None:
    """Write folder `out`, whole or not at all. Raises UserError if there is something in it."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out}: found something there, wanted a new folder. Name another.")
    with replacing_folder(out.absolute()) as folder:
        match to:
            case "hf":
                from pipeline.commands.exports import hf

                hf.write(source, folder)
            case "jsonl":
                from pipeline.commands.exports import jsonl

                jsonl.write(source, folder)
            case "trl":
                from pipeline.commands.exports import trl

                trl.write(source, folder)
            case "verl":
                from pipeline.commands.exports import verl

                verl.write(source, folder)
