"""The checkpoint as a folder for transformers, with a model card."""

import shutil
from pathlib import Path

from pipeline import checkpoints
from pipeline.errors import UserError
from pipeline.exports import card
from pipeline.exports.source import Source

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def write(source: Source, folder: Path) -> None:
    """Copy every file and write README.md. Raises UserError for weights that are pickled."""
    checkpoint = checkpoints.check(source.checkpoint)
    files = sorted(path for path in checkpoint.iterdir() if path.is_file())
    pickled = [path.name for path in files if path.suffix in PICKLED]
    if pickled:
        raise UserError(
            f"{checkpoint}: found {pickled}, wanted weights as safetensors alone: loading a pickle "
            "runs code. Rerun the stage that wrote it."
        )
    for path in files:
        if path.name != "README.md":
            shutil.copyfile(path, folder / path.name)
    (folder / "README.md").write_text(card.card(source), encoding="utf-8")
