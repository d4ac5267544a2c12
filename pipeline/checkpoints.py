"""Checkpoints as folders: Hugging Face layout, safetensors. No torch here."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer

from pipeline.errors import UserError

NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")


def check(folder: Path) -> Path:
    """`folder` if it holds a whole checkpoint. Raises UserError naming what is missing."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise UserError(
            f"{folder}: not a checkpoint, lacks {', '.join(missing)}. "
            "Run `dvc repro` to make it, or `dvc checkout` to restore it."
        )
    return folder


def tokenizer(path: Path) -> Tokenizer:
    """The light tokenizer of a checkpoint's tokenizer.json."""
    if not path.is_file():
        raise UserError(f"{path}: no such tokenizer. Run `dvc repro` to make the checkpoint.")
    text = path.read_text(errors="replace")
    try:
        json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not a whole tokenizer ({error}). Rerun its stage.") from error
    return Tokenizer.from_str(text)


def fingerprint(folder: Path) -> str:
    """sha256 over config, tokenizer and weights: what the checkpoint is, wherever it lies."""
    check(folder)
    digest = hashlib.sha256()
    names = ["config.json", "tokenizer.json"]
    names += sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / "chat_template.jinja").is_file():
        names.append("chat_template.jinja")
    for name in names:
        with (folder / name).open("rb") as file:
            digest.update(f"{name}:{hashlib.file_digest(file, 'sha256').hexdigest()};".encode())
    return digest.hexdigest()


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place on success, else vanishes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
