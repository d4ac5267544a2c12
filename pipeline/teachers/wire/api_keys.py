"""API keys: read and checked in one place, and taken out of every text that leaves the teacher.

A key stands in an environment variable. A provider or a library that repeats it may write it in
another form: escaped, quoted, as a part of basic auth, or cut off in the middle.
"""

import base64
import functools
import html
import json
import os
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, urlsplit

from pipeline.config.teachers import Hosted
from pipeline.core.errors import UserError
from pipeline.teachers.capabilities import OWN

KEYS = {"openai_compatible": "OPENAI_API_KEY"}  # where api_key_env is null, by kind or provider
KEYS |= {"openrouter": "OPENROUTER_API_KEY", "deepseek": "DEEPSEEK_API_KEY"}
KEYS |= {"mistral": "MISTRAL_API_KEY", "groq": "GROQ_API_KEY"}
KEYS |= {"anthropic": "ANTHROPIC_API_KEY", "google": "GEMINI_API_KEY"}
PIECE = 8  # characters of a key that are taken out wherever they stand; fewer could be any word
SHOWN, SEARCHED = 500, 10_000  # characters of a text that are shown, and that are looked at
UNFIT = re.compile(r"[^!-~]")  # what no HTTP header can carry, and what no provider puts in a key


def key_name(config: Hosted) -> str | None:
    """Name of the environment variable with the API key; None for one's own keyless server."""
    if config.api_key_env or config.provider in OWN:
        return config.api_key_env
    return KEYS.get(config.provider, KEYS.get(config.kind))


def api_key(config: Hosted) -> str:
    """The key, without blanks around it.

    Raises UserError naming the variable that should hold it, and never the key.
    """
    name = key_name(config)
    if name is None:
        return "none"
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(
            f"teachers: {config.provider} needs a key, and the environment variable {name} is "
            f"{'empty' if name in os.environ else 'not set'}. Export it; params.yaml holds only "
            "its name (api_key_env)."
        )
    if unfit := UNFIT.search(key):
        raise UserError(
            f"teachers: the key in the environment variable {name} has {_called(unfit[0])} as "
            f"character {unfit.start() + 1} of {len(key)}, wanted letters, digits and signs of "
            "ASCII alone. Nothing was sent. Copy the key from the provider again and export it."
        )
    return key


def _called(character: str) -> str:
    """Name a character without showing it: it is a part of a key."""
    names = {"\r": "a carriage return", "\n": "a line feed", "\t": "a tab", " ": "a blank"}
    if character in names:
        return names[character]
    return "a character that is not ASCII" if character > "\x7f" else "a control character"


def redact(text: str, config: Hosted) -> str:
    """The beginning of `text` without the key, in whatever form, whole or in part."""
    name, text = key_name(config), text[:SEARCHED]
    secrets = {f"[{name}]": os.environ.get(name or "", "").strip()}
    secrets["[password]"] = urlsplit(config.base_url or "").password or ""
    for shown, secret in secrets.items():
        if secret:
            text = _without(text, secret, shown)
    return text[:SHOWN]


def _without(text: str, key: str, shown: str) -> str:
    """`text` with `shown` in place of each stretch that is made of pieces of the key's forms."""
    whole, pieces = _pieces(key)
    for form in whole:
        text = text.replace(form, shown)
    parts: list[str] = []
    end = 0  # of the last stretch
    for at in range(len(text) - PIECE + 1):
        if text[at : at + PIECE] in pieces:
            if at > end or not parts:
                parts += [text[end:at], shown]
            end = at + PIECE
    return "".join(parts) + text[end:]


@functools.lru_cache(16)
def _pieces(key: str) -> tuple[list[str], frozenset[str]]:
    """The forms that are shorter than a piece, and all pieces of the longer ones."""
    forms = sorted({*_forms(key)}, key=len, reverse=True)
    long = [form for form in forms if len(form) >= PIECE]
    pieces = (form[i : i + PIECE] for form in long for i in range(len(form) - PIECE + 1))
    return [form for form in forms if len(form) < PIECE], frozenset(pieces)


def _forms(key: str) -> Iterator[str]:
    """The key as it may stand in a text: escaped up to twice, and inside a text in base64."""
    once = {key, *_escaped(key)}
    yield from once.union(*map(_escaped, once))
    for before in range(3):  # bytes of the user's name before it, as far as they move its letters
        encoded = base64.b64encode(b"\0" * before + key.encode(errors="replace")).decode()
        cut = {0: 0, 1: -3, 2: -2}[(before + len(key)) % 3]  # of letters that what follows changes
        encoded = encoded[(0, 2, 3)[before] : cut or None]
        if len(encoded) >= PIECE:
            yield from (encoded, encoded.replace("+", "-").replace("/", "_"))


def _escaped(text: str) -> set[str]:
    quoted = quote(text, safe="")
    forms = {repr(text)[1:-1], json.dumps(text)[1:-1], html.escape(text), text.replace("/", r"\/")}
    forms |= {quoted, quote(text), quote_plus(text), re.sub("%..", lambda x: x[0].lower(), quoted)}
    for sign in "\"'":  # repr escapes the sign that it quotes with
        forms.add(text.replace("\\", "\\\\").replace(sign, f"\\{sign}"))
    # as Go writes JSON, and others
    forms.add(re.sub("[<>&'\"+=/]", lambda x: f"\\u{ord(x[0]):04x}", text))
    return forms
