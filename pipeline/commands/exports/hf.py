"""The checkpoint as a folder for transformers, with a model card.

An adapter is merged into its base: what it names as its base is a path of this project.
"""

import shutil
from pathlib import Path

from pipeline.commands.exports import card
from pipeline.commands.exports.source import Source
from pipeline.core.errors import UserError
from pipeline.engines import checkpoints
from pipeline.engines.chat import tokenizer_files


def write(source: Source, folder: Path) -> None:
    """Copy or merge, and write README.md. Raises UserError for weights that are pickled."""
    checkpoint = checkpoints.check(source.checkpoint)
    files = sorted(path for path in checkpoint.iterdir() if path.is_file())
    pickled = [path.name for path in files if path.suffix in checkpoints.PICKLED]
    if pickled:
        raise UserError(
            f"{checkpoint}: found {pickled}, wanted weights as safetensors alone: loading a pickle "
            "runs code. Rerun the stage that wrote it."
        )
    if checkpoints.is_adapter(checkpoint):
        _merged(checkpoint, folder)
        files = []
    for path in files:
        if path.name != "README.md":
            shutil.copyfile(path, folder / path.name)
    tokenizer_files.as_others_read(folder)
    (folder / "README.md").write_text(card.card(source), encoding="utf-8")


def _merged(checkpoint: Path, folder: Path) -> None:
    from pipeline.engines import adapters
    from pipeline.engines.hf import load

    policy = load(checkpoint)
    adapters.merge(policy.model)
    policy.model.save_pretrained(folder)
    tokenizer_files.save(policy.tokenizer, folder)
