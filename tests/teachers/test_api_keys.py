"""API keys: read and checked before anything is sent, and found in nothing that is written."""

import base64
import html
import json
from urllib.parse import quote, quote_plus

import httpx2
import pytest

from pipeline.core.errors import UserError
from pipeline.teachers.wire import api_keys, bodies
from tests.providers import MODELS, Batches, Scripted, ask, config, judging, message

providers = pytest.mark.parametrize("provider", list(MODELS))
pytestmark = pytest.mark.usefixtures("quick")
NAMES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "google": "GEMINI_API_KEY"}
KEY = "sk-can'a\"ry\\/5f+1c=9&e7<a>%2B"  # each sign has another form somewhere


def forms(key):
    """What a key looks like where it leaked, told apart from the code that takes it out."""
    found = {key, repr(key)[1:-1], repr({"a": key})[7:-2], json.dumps(key)[1:-1], html.escape(key)}
    found |= {json.dumps(json.dumps(key))[3:-3], repr(json.dumps(key))[2:-2]}
    found |= {quote(key), quote(key, safe=""), quote_plus(key), key.replace("/", "\\/")}
    for user in ("", "u", "us", "use"):
        basic = base64.b64encode(f"{user}:{key}".encode()).decode().rstrip("=")
        found |= {basic[len(user) + 4 : -2], basic[len(user) + 4 : -2].translate({43: 45, 47: 95})}
    return found


def leaks(text, key=KEY, least=10):
    """The forms of a key of which `text` has a piece."""
    return [
        form
        for form in forms(key)
        if any(form[i : i + least] in text for i in range(len(form) - least + 1))
    ]


def test_what_a_leak_looks_like_is_seen():
    for text in (KEY, f"{KEY!r}", json.dumps({"x": json.dumps({"y": KEY})}), quote(KEY, safe="")):
        assert leaks(f"said: {text}.")
    for user in ("", "u", "us", "user"):
        assert leaks(base64.b64encode(f"{user}:{KEY}".encode()).decode())
    assert leaks(KEY[:12])
    assert not leaks("Incorrect API key provided: sk-*****")


@pytest.mark.parametrize("key", [KEY, "sk-proj-0123456789abcdef", "tiny/k"])
def test_a_key_is_taken_out_in_every_form_and_where_it_is_cut(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{key}\n")
    of = config("openai", "http://127.0.0.1:9")
    said = [*forms(key), f"{key!r}\n", repr(f"Bearer {key}\n".encode()), f"{json.dumps(key)},"]
    said += [base64.b64encode(f"{user}:{key}".encode()).decode() for user in ("", "me", "you!")]
    cut = [key[:-3], key[3:]] if len(key) > 12 else []
    for text in [*said, *cut]:
        if len(key) < api_keys.PIECE and text != key and key not in text:
            continue  # short as a word: only as it is, and in no base64
        shown = api_keys.redact(f"Incorrect API key provided: {text} is no key", of)
        assert not leaks(shown, key, min(len(key), 10)), (text, shown)
        assert shown.startswith("Incorrect API key provided: "), shown
        assert shown.endswith(" is no key"), shown
        assert "[OPENAI_API_KEY]" in shown


def test_text_beside_a_key_stays_as_it_was(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    of = config("openai", "http://127.0.0.1:9")
    shown = api_keys.redact(f"one {KEY} two {KEY}{KEY} three", of)
    assert shown == "one [OPENAI_API_KEY] two [OPENAI_API_KEY] three"
    assert api_keys.redact("nothing here" * 50, of) == ("nothing here" * 50)[: api_keys.SHOWN]


def test_a_password_in_base_url_is_taken_out_too(monkeypatch):
    of = config("openai", "http://me:open-sesame-7@127.0.0.1:9")
    basic = base64.b64encode(b"me:open-sesame-7").decode()
    shown = api_keys.redact(f"refused open-sesame-7 and Basic {basic}", of)
    assert "sesame" not in shown
    assert not leaks(shown, "open-sesame-7", 8)


UNFIT = {
    "a carriage return": "sk-can\rary-5f1c9e7a",
    "a line feed": "sk-canary\n5f1c9e7a",
    "a blank": "sk-canary 5f1c9e7a",
    "a tab": "sk-canary\t5f1c9e7a",
    "a control character": "sk-canary\x015f1c9e7a",
    "a character that is not ASCII": "sk-canary-5f1c\u2013e7a",
    "not set": None,
    "empty": " \r\n",
}


@providers
@pytest.mark.parametrize("transport", ["live", "batch"])
def test_an_unfit_key_is_refused_before_a_request_is_sent_or_counted_and_never_shown(
    provider, transport, store, tmp_path, monkeypatch
):
    said = {}
    with Scripted(provider).running() as server:
        for fault, key in UNFIT.items():
            monkeypatch.delenv(NAMES[provider], raising=False)
            if key is not None:
                monkeypatch.setenv(NAMES[provider], key)
            with pytest.raises(UserError) as caught:
                ask(judging(provider, server.url, store, tmp_path, transport=transport))
            said[fault] = str(caught.value)
    for fault, text in said.items():
        assert fault in text
        assert NAMES[provider] in text
        assert "\n" not in text
        assert "canary" not in text
        assert "5f1c" not in text
    assert server.requests == []
    assert (store.spent().requests, store.spent().usd) == (0, 0)


@providers
def test_blanks_around_a_key_are_no_part_of_it(provider, store, tmp_path, monkeypatch):
    monkeypatch.setenv(NAMES[provider], "\t sk-canary\r\n")
    seen = []

    def look(handler):
        seen.append(dict(handler.headers))
        handler.reply(200, message(provider, ["13"]))

    with Scripted(provider, [look]).running() as server:
        ask(judging(provider, server.url, store, tmp_path))
    sent = [value.removeprefix("Bearer ") for value in seen[0].values() if "canary" in value]
    assert sent == ["sk-canary"]


def everything(key):
    """The key in all its forms, as one text."""
    basic = [base64.b64encode(f"{user}:{key}".encode()).decode() for user in ("", "me", "you!")]
    return " ".join([*sorted(forms(key)), *basic])


def failures(provider):
    """Replies that repeat the key wherever a provider puts words of its own."""
    said = everything(KEY)
    found = {
        status: (status, {"error": {"message": said, "code": status, "type": said}}, {})
        for status in (400, 401, 403, 404, 429, 500)
    }
    renamed = message(provider, ["13"], model=said) | {"system_fingerprint": said}
    pinned = message(provider, ["13"]) | {"system_fingerprint": said}
    stopped = json.loads(json.dumps(message(provider, ["13"])).replace("MAX_TOKENS", "x"))
    stopped |= {"stop_reason": said, "choices": [{"index": 0, "finish_reason": said}]}
    return found | {
        "not JSON": (500, said.encode(), {"content_type": "text/plain"}),
        "a page": (200, f"<html>{said}".encode(), {"content_type": "text/html"}),
        "half": (200, f'{{"choices": [{{"text": "{KEY}'.encode(), {}),
        "cut in the key": (200, f'{{"choices": "{"x" * 60}{KEY}'.encode(), {}),
        "an error in 200": (200, {"error": {"message": said}}, {}),
        "a word": (200, said.encode(), {}),
        "a shape": (200, {"object": said, "type": said, "detail": said}, {}),
        "a redirect": (307, b"", {"Location": f"http://elsewhere.invalid/{quote(KEY)}"}),
        "a model": (200, renamed, {}),
        "a reason": (200, stopped, {}),
        "an answer": (200, pinned, {}),
    }


def written(folder):
    """All that lies in a folder, write-ahead logs of databases among it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name: path.read_bytes().decode(errors="replace") for path in files}


@providers
def test_no_failure_shows_a_key_or_writes_it_anywhere(
    provider, store, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv(NAMES[provider], f"{KEY}\n")
    said = {}
    for number, (fault, step) in enumerate(failures(provider).items()):
        with Scripted(provider, [step] * 4).running() as server:
            try:
                ask(judging(provider, server.url, store, tmp_path, tries=2), [f"{number}+5="])
            except UserError as error:
                said[fault] = str(error)
        assert server.requests
    assert set(failures(provider)) - set(said) == {"an answer"}
    assert {fault: text for fault, text in said.items() if leaks(text)} == {}
    repeated = [fault for fault, text in said.items() if f"[{NAMES[provider]}]" in text]
    assert len(repeated) > 9  # of those that a provider can word
    assert not leaks(caplog.text)
    files = written(tmp_path)
    assert any(name.endswith("-wal") for name in files)  # what is not yet in the database itself
    assert {name: leaks(text) for name, text in files.items() if leaks(text)} == {}


def test_what_the_client_could_not_write_was_not_sent():
    error = RuntimeError("Connection error.")
    error.__cause__ = httpx2.LocalProtocolError("Illegal header value")
    assert not bodies.broken(error).reached
    error.__cause__ = httpx2.ReadError("it broke off")
    assert bodies.broken(error).reached


@providers
@pytest.mark.parametrize("outcome", ["expired", "busy", "refused", "cancelled"])
def test_no_failure_of_a_batch_shows_a_key_or_writes_it_anywhere(
    provider, outcome, store, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv(NAMES[provider], f"{KEY}\n")
    server = Batches(provider, outcome=lambda *_: outcome)
    whole = json.dumps
    words, said = [" it is", "not executed in time"], json.dumps(everything(KEY))[1:-1]

    def repeating(value, **more):
        text = whole(value, **more)
        for word in words:
            text = text.replace(word, f" {said}")
        return text

    monkeypatch.setattr("tests.providers.json.dumps", repeating)
    with server.running(), pytest.raises(UserError) as caught:
        ask(judging(provider, server.url, store, tmp_path, transport="batch", tries=2))
    monkeypatch.undo()
    assert server.batches
    assert not leaks(str(caught.value)), str(caught.value)
    if outcome in ("busy", "refused"):
        assert f"[{NAMES[provider]}]" in str(caught.value)  # where the provider repeated it
    assert not leaks(caplog.text)
    assert {n: leaks(t) for n, t in written(tmp_path).items() if leaks(t)} == {}
