"""A hosted teacher by one line, PROVIDER:MODEL or URL#MODEL, in place of an entry of `teachers`.

The entry that a line stands for has the line's letters for a name, and every other setting's
default: for a price, a limit or another key write the entry itself.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from pipeline.core.errors import UserError, short

OWN_KINDS = ("anthropic", "google")  # the others speak OpenAI's API, at these roots
ROOTS = {
    "openai": None,  # the SDK's default
    "openrouter": "https://openrouter.ai/api/v1",
    "deepseek": "https://api.deepseek.com/beta",  # beta: it continues a prefilled message
    "mistral": "https://api.mistral.ai/v1",
    "groq": "https://api.groq.com/openai/v1",
}
PROVIDERS = (*OWN_KINDS, *ROOTS)
WHERE = ("teach", "arms", "sweep", "evaluate")  # blocks of params.yaml that name teachers
TEACHER = "teach.teacher"  # as a key of a sweep
NAME = re.compile(r"[a-z][a-z0-9-]*")  # as in params.Name: no line


def is_line(text: str) -> bool:
    """Whether it is no name of an entry: a provider's model, a URL, a path or a hub name."""
    return NAME.fullmatch(text) is None


def is_hosted(line: str) -> bool:
    """Whether it names a teacher behind HTTP: a path may hold a colon too."""
    return "://" in line or (":" in line and not line.startswith((".", "/", "~")))


def name(line: str) -> str:
    """The name of the entry that a line stands for."""
    found = re.sub(r"[^a-z0-9]+", "-", line.rpartition("://")[2].lower()).strip("-")
    return found if found[:1].isalpha() else f"at-{found}"


def entry(line: str, key: str) -> dict[str, Any]:
    """The entry of `teachers` of a hosted teacher. Raises UserError, which calls the line `key`."""
    return _served(line, key) if "://" in line else _provided(line, key)


def _provided(line: str, key: str) -> dict[str, Any]:
    provider, _, model = line.partition(":")
    if provider not in PROVIDERS:
        near = difflib.get_close_matches(provider.lower(), PROVIDERS, 1)
        asked = f" Is it {near[0]}?" if near else ""
        raise UserError(
            f"{key}: found {short(line)}, wanted PROVIDER:MODEL with a provider of "
            f"{', '.join(PROVIDERS)}, or URL#MODEL.{asked}"
        )
    if not model:
        raise UserError(
            f"{key}: found {short(line)}, wanted {provider}:MODEL. Add the model's id, a dated one "
            "where there is one."
        )
    if provider in OWN_KINDS:
        return {"kind": provider, "model": model}
    found = {"kind": "openai_compatible", "provider": provider, "model": model}
    return found | ({"base_url": root} if (root := ROOTS[provider]) else {})


def _served(line: str, key: str) -> dict[str, Any]:
    url, _, model = line.partition("#")
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise UserError(
            f"{key}: found a URL with credentials or a query, wanted scheme, host and path alone. "
            "Write an entry of teachers, and put the key into the environment variable that its "
            "api_key_env names."
        )
    if parts.scheme not in ("http", "https") or not model:
        raise UserError(
            f"{key}: found {short(line)}, wanted http://HOST/v1#MODEL with the name under which "
            "the server has the model. Correct it."
        )
    return {"kind": "openai_compatible", "base_url": url, "model": model}


def blocks(values: dict[str, Any]) -> list[Any]:
    """Every block that names a teacher: `teach`, the base one, the arms' and those of points of
    sweeps, and evaluate.judge."""
    arms, swept = ([*_block(values, name).values()] for name in ("arms", "sweep"))
    own = [arm.get("teach") for arm in arms if isinstance(arm, dict)]
    points = [_block(one, "values").get(TEACHER) for one in swept if isinstance(one, dict)]
    listed = [one for point in points if isinstance(point, list) for one in point]
    judge = _block(values, "evaluate").get("judge")
    return [values.get("teach"), judge, *own, *({"teacher": one} for one in listed)]


def _block(values: dict[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def lines(teach: Any) -> Iterator[str]:
    """The lines in a block `teach`, which names one teacher or several."""
    found = teach.get("teacher") if isinstance(teach, dict) else None
    for text in found if isinstance(found, list | tuple) else [found]:
        if isinstance(text, str) and is_line(text):
            yield text


def hosted(blocks: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """By name the entries of all hosted lines in some blocks `teach`."""
    return {
        name(line): entry(line, TEACHER)
        for block in blocks
        for line in lines(block)
        if is_hosted(line)
    }
