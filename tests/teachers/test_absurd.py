"""Replies that no provider should send: bounded, a failed try or an answer, and never a credit."""

import gzip
import json
import re
import time

import pytest

from pipeline.config.teachers import Price
from pipeline.core.errors import UserError
from pipeline.teachers import batches, replies
from pipeline.teachers.wire import calls
from tests.providers import MODELS, Batches, BatchHandler, Scripted, ask, judging, message

providers = pytest.mark.parametrize("provider", list(MODELS))
pytestmark = pytest.mark.usefixtures("quick")
PRICE = Price(input=1e6, output=1e6)  # a dollar a token
PREFIXES = ("8+5=", "8+5=13", "8+5=13,7")
WROTE = rb'"(completion_tokens|output_tokens|candidatesTokenCount)": 3'
READ = rb'"(prompt_tokens|input_tokens|promptTokenCount)": 20'
TEXT = rb'"13[^"]*"'
INDEX = rb'"index": 0'
MODEL = rb'"(model|modelVersion)": "'
NUMBERS = {
    "of 20 digits": b"1" + b"0" * 19,
    "of 5,000 digits": b"9" * 5000,
    "negative": b"-40",
    "NaN": b"NaN",
    "1e999": b"1e999",
    "a word": b'"many"',
    "true": b"true",
    "deep": b"[" * 900 + b"]" * 900,
}


def spoilt(pattern, value):
    """A change of the first place in a reply, by a number or by what is in it."""
    return lambda data: re.sub(pattern, lambda m: value(m[0]), data, count=1)


SPOILT = {
    **{f"usage {k}": spoilt(WROTE, lambda m, v=v: m[:-1] + v) for k, v in NUMBERS.items()},
    "prompt negative": spoilt(READ, lambda m: m[:-2] + b"-40"),
    "prompt infinite": spoilt(READ, lambda m: m[:-2] + b"1e999"),
    "index infinite": spoilt(INDEX, lambda m: m[:-1] + b"1e999"),
    "index of 20 digits": spoilt(INDEX, lambda m: m[:-1] + b"9" * 20),
    "index NaN": spoilt(INDEX, lambda m: m[:-1] + b"NaN"),
    "text in 100,000 lists": spoilt(TEXT, lambda m: b"[" * 100_000 + b"]" * 100_000),
    "text in 900 lists": spoilt(TEXT, lambda m: b"[" * 900 + m + b"]" * 900),
    "no UTF-8": spoilt(TEXT, lambda m: m[:-1] + b'\xff\xfe"'),
    "a long model": spoilt(MODEL, lambda m: m + b"x" * 300_000),
    "a text of 5 MB": spoilt(TEXT, lambda m: m[:-1] + b"x" * 5_000_000 + b'"'),
}
OF_A_ROW = ("usage of 5,000 digits", "usage negative", "usage 1e999", "usage deep", "no UTF-8")
OF_A_ROW += ("index infinite", "text in 100,000 lists", "a text of 5 MB")
WHOLE = {
    "5 MB of blanks": b" " * 5_000_000 + b"{}",
    "100,000 lists": b"[" * 100_000,
    "whole lists": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects": b'{"a":' * 100_000,
    "nothing": b"",
    "null": b"null",
    "an empty object": b"{}",
    "no text": bytes(range(256)),
}


SENT = []  # bytes of the endless body that went out


def endless(handler):
    """A body without an end."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    handler.close_connection = True
    SENT.clear()
    for _ in range(2000):
        handler.wfile.write(b" " * 100_000)
        SENT.append(100_000)


PACKED = gzip.compress(b" " * 40_000_000)


def packed(handler):
    """A body of 40 kB that unpacks to 40 MB."""
    handler.reply(200, PACKED, Content_Encoding="gzip")


def steps(provider):
    """What the first request of a run is answered with."""
    whole = json.dumps(message(provider, ["13, carry"])).encode()
    found = {name: (200, change(whole), {}) for name, change in SPOILT.items()}
    found |= {name: (200, body, {}) for name, body in WHOLE.items()}
    errors = ("nothing", "100,000 lists", "5 MB of blanks")
    found |= {f"{name} as an error": (500, WHOLE[name], {}) for name in errors}
    return found | {"endless": endless, "packed": packed}


@providers
def test_an_absurd_reply_is_an_answer_or_a_failed_try_and_never_a_credit(provider, store, tmp_path):
    outcomes, said = {}, []
    for number, (name, step) in enumerate(steps(provider).items()):
        before, start = store.spent(), time.monotonic()
        with Scripted(provider, [step]).running() as server:
            run = judging(provider, server.url, store, tmp_path, price=PRICE, tries=2)
            try:
                found = ask(run, [f"{number}+5="])
                outcomes[name] = "answered" if len(server.requests) == 1 else "tried again"
                assert found[0, 0].prompt_tokens > 0, name
                assert 0 < found[0, 0].completion_tokens <= replies.MOST_TOKENS, name
            except UserError as error:
                outcomes[name] = "refused"
                said.append(str(error))
        spent = store.spent()
        assert spent.requests - before.requests == len(server.requests) > 0, name
        assert spent.usd - before.usd >= (0 if outcomes[name] == "refused" else 20 + 1), name
        assert time.monotonic() - start < 20, name
    assert all(len(text) < 1500 and "\n" not in text for text in said)
    again = {name for name, outcome in outcomes.items() if outcome == "tried again"}
    assert {"endless", "packed", "5 MB of blanks", "a text of 5 MB", "no UTF-8"} <= again
    assert {"100,000 lists", "whole lists", "text in 100,000 lists", "nothing as an error"} <= again
    assert sum(SENT) < 50_000_000  # of 200: what is on its way when the client hangs up
    assert outcomes["usage of 20 digits"] == "answered"
    assert outcomes["usage negative"] == "answered"


WAITS = ("1e999", "-1e999", "nan", "-5", "9" * 400, "soon", "", "0x10", "1e308s")
DATES = ("Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 99999 23:59:59 GMT", "0")
DATES += ("Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "Sat, 32 Foo 2026")


@providers
def test_a_wait_beyond_any_calendar_is_bounded(provider, store, tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "LONGEST_RETRY_AFTER", 0.02)
    monkeypatch.setattr(calls, "LONGEST_WAIT", 0.02)
    script = [
        (429, {"error": {"message": "slow down"}}, {"Retry_After": wait}) for wait in WAITS + DATES
    ]
    start = time.monotonic()
    with Scripted(provider, script).running() as server:
        ask(judging(provider, server.url, store, tmp_path, tries=len(script) + 1))
    assert len(server.requests) == store.spent().requests == len(script) + 1
    assert time.monotonic() - start < 60


class SpoiltHandler(BatchHandler):
    def reply(self, status, content, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        super().reply(status, self.server.change(self.command, self.path, data), **headers)


class SpoiltBatches(Batches):
    """A batch service of which `change(method, path, body)` makes other replies."""

    def __init__(self, provider, change):
        super().__init__(provider, polls=1)
        self.RequestHandlerClass, self.change = SpoiltHandler, change


def of_results(change):
    """`change` in the first reply that has results, of the first batch."""
    left = [1]

    def once(method, path, data):
        if method == "POST" or b"13, " not in data or not left:
            return data
        left.clear()
        return change(data)

    return once


@providers
def test_an_absurd_row_of_a_batch_costs_no_other_row_and_is_never_a_credit(
    provider, store, tmp_path
):
    outcomes, said = {}, []
    for number, name in enumerate(OF_A_ROW):
        change = SPOILT[name]
        before = store.spent()
        with SpoiltBatches(provider, of_results(change)).running() as server:
            how = {"transport": "batch", "price": PRICE, "tries": 3}
            run = judging(provider, server.url, store, tmp_path, **how)
            try:
                assert len(ask(run, [f"{number}+{i}=" for i in range(3)])) == 3
                outcomes[name] = len(server.batches)
            except UserError as error:
                outcomes[name] = "refused"
                said.append(str(error))
                ask(judging(provider, server.url, store, tmp_path, **how), [f"{number}+1="])
        assert [len(sent) for sent in server.batches] in ([3], [3, 1]), name
        spent = store.spent()
        assert spent.requests - before.requests == sum(map(len, server.batches)), name
        usd = spent.usd - before.usd
        assert usd >= (20 + 1) * 3 / 2 * (outcomes[name] != "refused"), name
        if outcomes[name] == 2:  # the provider has done the work of the row that cannot be read
            assert usd > (20 + 3) * 3 / 2 + 1, name
    assert all(len(text) < 1500 and "\n" not in text for text in said)
    assert outcomes["usage negative"] == 1
    if provider != "google":  # whose results are one text: nothing of it can be read
        assert outcomes["text in 100,000 lists"] == outcomes["usage of 5,000 digits"] == 2
    assert outcomes["a text of 5 MB"] == 2


@providers
@pytest.mark.parametrize("body", [b"", b"{}", b'{"id": 1e999, "name": []}', b"[" * 99_999])
def test_a_batch_whose_id_cannot_be_read_is_not_sent_twice(provider, body, store, tmp_path):
    def change(method, path, data):
        return data if method == "GET" or path.endswith("/files") else body

    server = SpoiltBatches(provider, change)
    with server.running(), pytest.raises(UserError) as caught:
        ask(judging(provider, server.url, store, tmp_path, transport="batch"), PREFIXES)
    assert "Look in the provider's console" in str(caught.value)
    assert len(server.batches) == 1


@providers
@pytest.mark.parametrize("body", [b"[" * 99_999, b"null", b"{}", b'{"status": "odd"}'])
def test_a_look_at_a_batch_that_cannot_be_read_is_tried_again_and_ends(
    provider, body, store, tmp_path
):
    def change(method, path, data):
        return body if method == "GET" and broken else data

    broken = [True]
    with SpoiltBatches(provider, change).running() as server:
        how = {"transport": "batch", "tries": 2}
        with pytest.raises(UserError) as caught:
            ask(judging(provider, server.url, store, tmp_path, **how), PREFIXES)
        assert "\n" not in str(caught.value)
        broken.clear()
        assert len(ask(judging(provider, server.url, store, tmp_path, **how), PREFIXES)) == 3
    assert len(server.batches) == 1  # it is taken up again, not bought again


def test_a_batch_that_never_stops_sending_ends(store, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "LONGEST_SECONDS", 0.3)

    def slowly(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.05)

    with (
        Scripted("anthropic", [slowly]).running() as server,
        pytest.raises(UserError, match="no reply in 0 s"),
    ):
        ask(judging("anthropic", server.url, store, tmp_path, transport="batch"))
