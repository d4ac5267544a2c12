"""The tokenizer that a model's folder says: read in, compared, and saved.

tokenizer.json is the truth: a class name beside it may make other ids of the same text.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from pipeline.core.errors import UserError
from pipeline.engines import checkpoints
from pipeline.engines.chat.templates import template

PROBES = (
    "Hey, are you conscious?\nCan you talk to me?",
    "  12345 + 678 = 13,023;  \u00e9\u00fc \u4f60\u597d\n\n\tdef f(x):\n    return x  # \U0001f642",
)


def load(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint of ours, which was compared when it was read in."""
    found: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    found.backend_tokenizer.no_truncation()
    found.backend_tokenizer.no_padding()
    found.chat_template = template(found.chat_template, str(folder))
    return found


def read_in(
    where: str | Path,
    owner: str,
    revision: str | None = None,
    day: str | None = None,
    given: str | None = None,
) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or hub name, its template's date pinned. Raises UserError.

    `owner` begins the message of an error; OSError and ValueError are transformers' own. `given`
    is a template to use in place of its own.
    """
    path = cached_file(
        str(where), "tokenizer.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    if path is None:
        tokenizer = _converted(where, owner, revision)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(where, revision=revision or "main")
        _same_ids(tokenizer, checkpoints.tokenizer(Path(path)), owner, "its tokenizer.json")
    tokenizer.backend_tokenizer.no_truncation()  # some files would cut every text
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.clean_up_tokenization_spaces = False  # it would take spaces out of what was decoded
    tokenizer.chat_template = template(given or tokenizer.chat_template, owner, day)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


def as_others_read(folder: Path) -> None:
    """Raise UserError unless AutoTokenizer makes the ids of the folder's tokenizer.json."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    truth = checkpoints.tokenizer(folder / "tokenizer.json")
    owner = f"export: {folder.name}: read by AutoTokenizer as {type(found).__name__}"
    _same_ids(found, truth, owner, "its tokenizer.json")


def _converted(where: str | Path, owner: str, revision: str | None) -> Any:
    """A tokenizer without tokenizer.json, if what is made of its files is what they say."""
    from transformers import AutoTokenizer  # it imports torch: seconds, for stages without a model

    model = cached_file(
        str(where), "tokenizer.model", revision=revision,
        _raise_exceptions_for_missing_entries=False,
    )  # fmt: skip
    own = None if model is None else _sentencepiece(model, owner)
    tokenizer: Any = AutoTokenizer.from_pretrained(
        where, revision=revision, trust_remote_code=False
    )
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{owner}: {str(where)!r} has no tokenizer.json, and {type(tokenizer).__name__} cannot "
            "be written as one. Use a revision that has it, or convert it and compare the ids."
        )
    if own is not None:
        _same_as_sentencepiece(tokenizer, own, owner)
    round_trips(tokenizer, owner)
    return tokenizer


def _sentencepiece(model: str, owner: str) -> Any:
    """sentencepiece's own reading of tokenizer.model. transformers converts it with protobuf."""
    needed = [
        package
        for name, package in (("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf"))
        if not _installed(name)
    ]
    if needed:
        raise UserError(
            f"{owner}: it has a tokenizer.model and no tokenizer.json, so it has to be converted "
            f"and its ids compared with sentencepiece's own. `pip install {' '.join(needed)}`, or "
            "use a revision that has tokenizer.json."
        )
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=model)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def _same_as_sentencepiece(found: Any, own: Any, owner: str) -> None:
    for probe in PROBES:
        theirs = list(own.encode(probe))
        ours = list(found.encode(probe, add_special_tokens=False))
        if ours != theirs:
            raise _differ(owner, probe, ours, theirs, "sentencepiece on its tokenizer.model")


def _same_ids(found: Any, truth: Tokenizer, owner: str, source: str) -> None:
    for probe in PROBES:
        theirs = list(truth.encode(probe, add_special_tokens=False).ids)
        ours = list(found.encode(probe, add_special_tokens=False))
        if ours != theirs:
            raise _differ(owner, probe, ours, theirs, source)


def _differ(owner: str, probe: str, ours: list[int], theirs: list[int], source: str) -> UserError:
    return UserError(
        f"{owner}: {probe[:24]!r} becomes the ids {ours[:8]} when it is loaded, wanted "
        f"{theirs[:8]} as {source} has them. Use a revision whose files agree, or save its "
        "tokenizer.json anew."
    )


def round_trips(tokenizer: Any, owner: str) -> None:
    """Raise UserError if text does not come back from its own ids."""
    for probe in PROBES:
        back = tokenizer.decode(tokenizer.encode(probe, add_special_tokens=False))
        if back.strip() != probe.strip():
            raise UserError(
                f"{owner}: its tokenizer makes {back[:40]!r} of {probe[:40]!r}, wanted the same "
                "text. Its files do not say which tokenizer it is: use a revision with "
                "tokenizer.json."
            )


def save(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer so that transformers of any version takes its ids from tokenizer.json."""
    tokenizer.init_kwargs.pop("local_files_only", None)  # HF_HUB_OFFLINE of whoever loaded it
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {
        "tokenizer_class": "PreTrainedTokenizerFast"
    }
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
