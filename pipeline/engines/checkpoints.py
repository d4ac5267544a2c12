"""Checkpoints as folders: Hugging Face layout, safetensors. No torch here.

A checkpoint is whole, or a peft adapter that names the whole one that it sits on by its path from
the project's folder and by its hash.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pipeline.config import params_file
from pipeline.core import files, verified
from pipeline.core.errors import UserError

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
NEEDED = ("config.json", *TOKENIZER)
GENERATION = "generation_config.json"  # has the ends of a turn
NOTE = "dropped.txt"  # beside a checkpoint that experiment.keep_checkpoints has dropped
ADAPTER_CONFIG, BASE = "adapter_config.json", "base.json"
ADAPTER = (ADAPTER_CONFIG, "adapter_model.safetensors", BASE, *TOKENIZER)
READ = {".json", ".safetensors", ".model", ".jinja", ".txt", ".py"}  # when a model is read in
CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def check(folder: Path) -> Path:
    """`folder` if nothing of a checkpoint is missing in it. Raises UserError naming what is."""
    needed = ADAPTER if is_adapter(folder) else NEEDED
    missing = [name for name in needed if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        _refuse_pickles(folder)
        missing.append("*.safetensors")
    if missing and (folder.parent / NOTE).is_file() and not folder.exists():
        raise UserError(
            f"{folder}: not there. {(folder.parent / NOTE).read_text(encoding='utf-8').strip()}"
        )
    if missing:
        raise UserError(
            f"{folder}: not a checkpoint, lacks {', '.join(missing)}. "
            "Run `dvc repro` to make it, or `dvc checkout` to restore it."
        )
    verified.once(folder)
    return folder


def _refuse_pickles(folder: Path) -> None:
    found = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLED)
    if found:
        raise UserError(
            f"{folder}: found weights as {', '.join(found)}, wanted *.safetensors: loading a "
            "pickle runs whatever code is in it. Use a revision that has safetensors, or convert "
            "the file where that can do no harm."
        )


def trusted(name: str | Path, config: Mapping[str, Any]) -> bool:
    """Whether transformers or vLLM has to run code that checkpoint `name` brings along, and may.

    `config` is its config.json. Where the libraries have a class of their own for the model, they
    take that and its code stays unread, so the setting changes no result. Raises UserError where
    params do not allow what is needed.
    """
    if "auto_map" not in config:
        return False
    from transformers import CONFIG_MAPPING

    if config.get("model_type") in CONFIG_MAPPING:
        return False
    if not params_file.runtime().trust_remote_code:
        raise UserError(
            f"{name}: found a model of type {config.get('model_type')!r} that only code of its own "
            f"({', '.join(map(str, dict(config['auto_map']).values()))}) can load, wanted one that "
            "transformers knows. Read that code; if you trust it, set "
            "runtime.trust_remote_code: true. Or use another model."
        )
    return True


def runs_code(folder: Path) -> bool:
    """The same of a whole checkpoint in `folder`."""
    return trusted(folder, _json(folder / "config.json"))


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def base(folder: Path) -> Path:
    """The whole checkpoint that `folder` is or, if it is an adapter, says that it sits on."""
    if not is_adapter(folder):
        return folder
    return Path(str(_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")))


def verified_base(folder: Path) -> Path:
    """The same, if it is the one that the adapter was trained on. Raises UserError."""
    found = base(check(folder))
    if found == folder:
        return folder
    if not found.is_dir():
        raise UserError(
            f"{found}: not found, wanted the checkpoint that the adapter {folder} sits on. "
            f"Run this in the project's folder, after `dvc checkout {found}`."
        )
    sha256, wanted = fingerprint(found), _json(folder / BASE).get("sha256")
    if sha256 != wanted:
        raise UserError(
            f"{found}: found a checkpoint of sha256 {sha256[:12]}, wanted {str(wanted)[:12]}, the "
            f"one that the adapter {folder} was trained on. Run `dvc repro`, which trains it anew."
        )
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}). Rerun its stage.") from error


def tokenizer(path: Path) -> Tokenizer:
    """The light tokenizer of a checkpoint's tokenizer.json."""
    if not path.is_file():
        raise UserError(f"{path}: no such tokenizer. Run `dvc repro` to make the checkpoint.")
    verified.once(path)
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not a whole tokenizer ({error}). Rerun its stage.") from error
    found = Tokenizer.from_str(text)
    found.no_truncation()  # some files of public models cut every text at a few hundred tokens
    found.no_padding()
    return found


def fingerprint(folder: Path) -> str:
    """sha256 over config, tokenizer, weights, ends and code: what it is, wherever it lies."""
    check(folder)
    digest = hashlib.sha256()
    names = ["config.json", "tokenizer.json"]
    if is_adapter(folder):  # its config says where the base lies; base.json says what it is
        config = _json(folder / ADAPTER_CONFIG) | {"base_model_name_or_path": None}
        digest.update(json.dumps(config, sort_keys=True).encode())
        names = [BASE, "tokenizer.json"]
    names += sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / "chat_template.jinja").is_file():
        names.append("chat_template.jinja")
    names += sorted(path.name for path in folder.glob("*.py"))  # code of a model of its own
    for name in names:
        digest.update(f"{name}:{files.sha256(folder / name)};".encode())
    if (folder / GENERATION).is_file():
        ends = _json(folder / GENERATION).get("eos_token_id")
        if isinstance(ends, list) and len(ends) > 1:  # one end was always known
            digest.update(f"ends:{sorted(ends)};".encode())
    return digest.hexdigest()


def shape(folder: Path) -> str:
    """sha256 over what checkpoints of one student have in common: config, tokenizer, and the names,
    types and shapes of tensors."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        digest.update(f"{name}:{files.sha256(folder / name)};".encode())
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for key in sorted(file.keys()):
                part = file.get_slice(key)
                digest.update(f"{key}:{part.get_dtype()}{part.get_shape()};".encode())
    return digest.hexdigest()


def content(folder: Path) -> str:
    """sha256 over all that a model's folder holds and reading it in looks at, whoever wrote it; of
    an adapter over its base's too, where that is a folder. Raises UserError without weights."""
    if not any(folder.glob("*.safetensors")):
        _refuse_pickles(folder)
        raise UserError(
            f"{folder}: found no *.safetensors, wanted a model or an adapter. Name its folder."
        )
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in READ and path.is_file():
            digest.update(f"{path.relative_to(folder)}:{files.sha256(path)};".encode())
    below = base(folder)
    if below != folder and below.is_dir():
        digest.update(content(below).encode())
    return digest.hexdigest()


def context(folder: Path) -> int | None:
    """Tokens of the longest row that a checkpoint reads; None where its config does not say."""
    return context_of(_json(base(folder) / "config.json"))


def context_of(config: Mapping[str, Any]) -> int | None:
    """The same of a config.json; of a model with images, of its text part."""
    config = config.get("text_config") or config
    found = next((config[name] for name in CONTEXT if config.get(name)), None)
    return None if found is None else int(found)


def parameters(folder: Path) -> int:
    """Numbers in the checkpoint's own weights, from the headers of its files."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            count += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return count


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
