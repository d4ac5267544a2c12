"""What a model's folder says of its text: tokenizer, chat template, date, and the ends of a turn.

tokenizer.json is the truth: a class name beside it may make other ids of the same text. A date in a
template is pinned, so that ids and keys are the same tomorrow.
"""

import datetime
import functools
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from pipeline.core.errors import UserError
from pipeline.engines import checkpoints

Messages = list[dict[str, str]]
# the date that Llama 3's own templates fall back to where no clock is there
DATE = "2024-07-26"
PROBES = (
    "Hey, are you conscious?\nCan you talk to me?",
    "  12345 + 678 = 13,023;  \u00e9\u00fc \u4f60\u597d\n\n\tdef f(x):\n    return x  # \U0001f642",
)
PINNED = "{%- macro strftime_now(format) -%}"
QUESTION, ANSWER = "Qzq", "Azq"  # of a conversation that shows what a template writes around them


class Ends(NamedTuple):
    """The ids that end a turn of a model."""

    ids: tuple[int, ...]  # the first is what is written where a text has to end
    sources: tuple[str, ...]  # of each, where it is from


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
        found = _converted(where, owner, revision)
    else:
        found = PreTrainedTokenizerFast.from_pretrained(where, revision=revision or "main")
        _same_ids(found, checkpoints.tokenizer(Path(path)), owner, "its tokenizer.json")
    found.backend_tokenizer.no_truncation()  # some files would cut every text
    found.backend_tokenizer.no_padding()
    found.clean_up_tokenization_spaces = False  # it would take spaces out of what was decoded
    found.chat_template = template(given or found.chat_template, owner, day)
    assert isinstance(found, PreTrainedTokenizerFast)
    return found


def as_others_read(folder: Path) -> None:
    """Raise UserError unless AutoTokenizer makes the ids of the folder's tokenizer.json."""
    found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    truth = checkpoints.tokenizer(folder / "tokenizer.json")
    owner = f"export: {folder.name}: read by AutoTokenizer as {type(found).__name__}"
    _same_ids(found, truth, owner, "its tokenizer.json")


def _converted(where: str | Path, owner: str, revision: str | None) -> Any:
    """A tokenizer without tokenizer.json, if what is made of its files is what they say."""
    model = cached_file(
        str(where), "tokenizer.model", revision=revision,
        _raise_exceptions_for_missing_entries=False,
    )  # fmt: skip
    own = None if model is None else _sentencepiece(model, owner)
    found: Any = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
    if not getattr(found, "is_fast", False):
        raise UserError(
            f"{owner}: {str(where)!r} has no tokenizer.json, and {type(found).__name__} cannot be "
            "written as one. Use a revision that has it, or convert it and compare the ids."
        )
    if own is not None:
        _same_as_sentencepiece(found, own, owner)
    round_trips(found, owner)
    return found


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


def round_trips(found: Any, owner: str) -> None:
    """Raise UserError if text does not come back from its own ids."""
    for probe in PROBES:
        back = found.decode(found.encode(probe, add_special_tokens=False))
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


def template(found: Any, owner: str, day: str | None = None) -> str | None:
    """One chat template of what a tokenizer has, its date pinned. Raises UserError.

    Of several with names it is the one named `default`.
    """
    if isinstance(found, dict):
        if "default" not in found:
            raise UserError(
                f"{owner}: has the chat templates {sorted(found)}, wanted one named 'default'. "
                "Write the one to use into init.chat_template, as Jinja."
            )
        found = found["default"]
    return None if found is None else pinned(str(found), day)


def pinned(text: str, day: str | None) -> str:
    """A template that reads `day` wherever it asks for today; others stay as they are.

    The clock's function is replaced by a macro of its name in the template's first line, so that
    it also holds for readers that know nothing of it.
    """
    if "strftime_now" not in text or PINNED in text:
        return text
    moment = datetime.datetime.fromisoformat(day or DATE)
    kinds = [f"%-{x}" for x in "dmyHIMSj"] + [
        f"%{x}" for x in "aAwdbBmyYHIpMSfjUWcxXzZGuVCDeFghklnPrRstT"
    ]
    replaced = "".join(
        f" | replace({json.dumps(kind)}, {json.dumps(moment.strftime(kind))})"
        for kind in kinds
        if kind in text
    )
    hide, show = 'replace("%%", "\\u0001")', 'replace("\\u0001", "%")'
    body = f"{{{{- format | {hide}{replaced} | {show} -}}}}"
    return f"{PINNED}{body}{{%- endmacro -%}}\n{text}"


def render(
    tokenizer: Any, messages: Messages, owner: str, generation: bool = True, **more: Any
) -> str:
    """The text of messages by a tokenizer's template, thinking off. Raises UserError."""
    if tokenizer.chat_template is None:
        raise UserError(
            f"{owner}: its tokenizer has no chat template, wanted one. Write it into "
            "init.chat_template of the model, or chat_template.jinja beside tokenizer.json."
        )
    try:
        return str(
            tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=generation,
                enable_thinking=False,
                **more,
            )
        )
    except TemplateError as error:
        roles = ", ".join(x["role"] for x in messages)
        raise UserError(
            f"{owner}: its chat template refuses messages with the roles {roles} and says: "
            f"{error}. Drop the system message, write it into the user's message, let user and "
            "assistant take turns, or give another template (init.chat_template of the model, "
            "chat_template.jinja in the folder of a tokenizer)."
        ) from error


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text that begins a row."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def resolve(tokenizer: Any, generation: Any, size: int, owner: str) -> Ends:
    """The ends of a model that is read in. Raises UserError.

    `generation` is its generation config's eos_token_id, `size` the rows of its head. The end that
    its template writes comes first, then the tokenizer's own.
    """
    listed = generation if isinstance(generation, list | tuple) else [generation]
    found = sources(tokenizer, [int(x) for x in listed if x is not None and x < size])
    silent = [token for token in found if token >= size]
    if silent:
        named = [f"{tokenizer.convert_ids_to_tokens(x)} (id {x}, {found[x]})" for x in silent]
        raise UserError(
            f"{owner}: a turn ends with {', '.join(named)}, and its head has only {size} rows, so "
            "it can never write that. Use the checkpoint that was trained with this template, or "
            "give init.chat_template one that ends a turn with a token of the model."
        )
    if not found:
        raise UserError(
            f"{owner}: neither its tokenizer, its generation_config.json nor its chat template "
            "names an end of a turn. Name one as eos_token in tokenizer_config.json."
        )
    return Ends(tuple(found), tuple(found.values()))


def sources(tokenizer: Any, listed: Iterable[int]) -> dict[int, str]:
    """The ends that files name, each with where it is from; `listed` are generation_config's."""
    written = template_end(tokenizer)
    found: dict[int, str] = {}
    if written is not None:
        found[written] = "chat template"
    if tokenizer.eos_token_id is not None:
        found.setdefault(int(tokenizer.eos_token_id), "tokenizer.eos_token")
    for token in listed:
        if tokenizer.convert_ids_to_tokens(token) is not None:  # a stale one can never be written
            found.setdefault(token, "generation_config.json")
    return found


def template_end(tokenizer: Any) -> int | None:
    """The first token that a template writes after an assistant's turn, if it is one that was
    added to the vocabulary and opens no turn; else None."""
    if tokenizer.chat_template is None:
        return None
    user = {"role": "user", "content": QUESTION}
    answer = {"role": "assistant", "content": ANSWER}
    try:
        shown = render(tokenizer, [user, answer], "", generation=False)
        opened = render(tokenizer, [user], "")
        again = render(tokenizer, [user, answer, user], "", generation=False)
    except UserError:  # it takes no such conversation, so it shows no end
        return None
    if ANSWER not in shown or QUESTION not in opened:
        return None
    before, _, tail = shown.rpartition(ANSWER)
    between = again.partition(ANSWER)[2].partition(QUESTION)[0]
    end = _without_opening(between, opened.partition(QUESTION)[0])
    header = before.rpartition(QUESTION)[2].strip()  # of the assistant, behind the user's end
    opening = between.removeprefix(end)  # of the next user
    if end and (end.strip() == header or _first(tokenizer, end) == _first(tokenizer, opening)):
        return None  # what is written there opens a turn
    if not end and tail.strip() in (header, between.strip()):
        return None
    tail = tail or end  # an end may be written only where another turn follows
    ids = text_ids(tokenizer, tail) if tail else []
    added = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    if not ids or ids[0] not in added or not tokenizer.convert_ids_to_tokens(ids[0]).strip():
        return None
    return ids[0]


def _first(tokenizer: Any, text: str) -> int | None:
    return next(iter(text_ids(tokenizer, text)), None)


def _without_opening(between: str, opening: str) -> str:
    """`between` two turns without what opens the second, which is how the first was opened."""
    size = next((n for n in range(len(between), 0, -1) if opening.endswith(between[-n:])), 0)
    return between[: len(between) - size]


def lead(tokenizer: Any) -> str:
    """The blanks that a template writes between its generation prompt and an answer: Llama 2's."""
    user = {"role": "user", "content": QUESTION}
    answer = {"role": "assistant", "content": ANSWER}
    try:
        asked = render(tokenizer, [user], "")
        shown = render(tokenizer, [user, answer], "", generation=False)
    except UserError:
        return ""
    between = shown.removeprefix(asked).partition(ANSWER)[0] if shown.startswith(asked) else ""
    return between if between.isspace() else ""


def named(tokenizer: Any, ids: Iterable[int]) -> str:
    """Ends as people know them: `<end_of_turn> (106)`."""
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(x)} ({x})" for x in ids)


@functools.cache
def ends(folder: Path) -> tuple[int, ...]:
    """The ends that the checkpoint in `folder`, or its base, was read in with."""
    base = checkpoints.base(folder)
    found = listed_ends(base)
    if not found:
        raise UserError(
            f"{base}: names no end of a turn in generation_config.json. Rerun pretrain."
        )
    return found


def listed_ends(where: str | Path) -> tuple[int, ...]:
    """eos_token_id of a folder's or hub name's generation_config.json, or else config.json."""
    for name in ("generation_config.json", "config.json"):
        path = cached_file(str(where), name, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            found = json.loads(Path(path).read_text(encoding="utf-8")).get("eos_token_id")
            if found is not None:
                return tuple(found) if isinstance(found, list) else (int(found),)
    return ()
