"""Servers that speak OpenAI's API in their own ways: understood, or refused by name and at once."""

import logging
import time
from email.utils import formatdate

import pytest
from pydantic import ValidationError

from pipeline.core.errors import UserError
from pipeline.judgments.keys import seed_for
from pipeline.judgments.store import Store
from pipeline.teachers.purchase import preflight
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.wire import calls
from tests.habits import PRICE, each, judged, loaded, says, whole
from tests.servers import Handler, Pure, Server

pytestmark = pytest.mark.usefixtures("quick")
# how an answer ended


@pytest.mark.parametrize(
    ("word", "ended"),
    [(word, True) for word in ("stop", "eos", "eos_token", "stop_sequence", "end_turn", "STOP")]
    + [(word, True) for word in ("COMPLETE", "stop_token")]
    + [(word, False) for word in ("length", "max_tokens", "model_length", "MAX_TOKENS")]
    + [(word, False) for word in ("max_new_tokens", "max_length", "max_output_tokens")],
)
def test_words_for_an_end_and_for_a_cut_are_understood(word, ended, store):
    with Pure(change=each(finish_reason=word)).running() as server:
        found, _ = judged(server.url, store)
    assert {judgment.ended for judgment in found} == {ended}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "finish_reason null"),
        (..., "finish_reason missing"),
        ("abort", "broke the answer off"),
        ("error", "broke the answer off"),
        ("timeout", "broke the answer off"),
        ("tool_calls", "'tool_calls', wanted stop or length"),
        (7, "finish_reason 7"),
        ("", "finish_reason ''"),
    ],
)
def test_an_answer_that_says_neither_is_refused_by_name_and_at_once(value, said, store):
    with (
        Pure(change=each(finish_reason=value)).running() as server,
        pytest.raises(UserError, match=said),
    ):
        judged(server.url, store, price=PRICE)
    assert len(server.requests) == 1
    assert (store.stats().answers, store.spent().usd) == (0, 0)


# another shape


MISMATCHED = {
    "no choices": (whole(choices=...), "no choices in .*wanted a list.*base_url"),
    "choices that are none": (whole(choices={"text": "13"}), "no choices in"),
    "choices of texts": (whole(choices=["13"]), "no choices in"),
    "a native reply of llama.cpp": (lambda q, r: {"content": "13", "stop": True}, "no choices"),
    "a native reply of Ollama": (lambda q, r: {"response": "13", "done": True}, "no choices in"),
    "no model": (whole(model=...), "no model in.*wanted the id of the model that answered"),
    "model null": (whole(model=None), "no model in"),
    "model empty": (whole(model=""), "no model in"),
    "a list": (lambda q, r: [r], "wanted an object"),
    "null": (lambda q, r: None, "wanted an object"),
    "a number": (lambda q, r: 42, "wanted an object"),
    "reasoning alone": (says(lambda t: None, reasoning_content="hm"), "This model thinks"),
    "reasoning and nothing": (says(lambda t: "", reasoning="hm"), "This model thinks"),
    "thought parts alone": (
        says(lambda t: [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
        "This model thinks",
    ),
    "no content": (each(message={"role": "assistant"}), "KeyError.*content"),
    "content a number": (says(lambda t: 13), "content 13"),
    "an index that is none": (each(index="first"), "ValueError"),
    "an index from 1": (each(index=1), r"indices \[1\], wanted 0 to 0"),
}


@pytest.mark.parametrize("habit", list(MISMATCHED))
def test_another_shape_is_refused_at_once_with_what_was_found(habit, store):
    change, said = MISMATCHED[habit]
    with (
        Pure(change=change).running() as server,
        pytest.raises(UserError, match=rf"refused: .*{said}"),
    ):
        judged(server.url, store, price=PRICE)
    assert len(server.requests) == 1
    assert (store.spent().requests, store.spent().usd) == (1, 0)


def test_equal_indices_are_refused_with_the_setting_that_helps(store):
    with (
        Pure(change=each(index=0)).running() as server,
        pytest.raises(UserError, match="samples_per_request: 1"),
    ):
        judged(server.url, store, samples=4, provider="vllm")
    assert len(server.requests) == 1


class Said(Handler):
    def do_POST(self):
        self.body()
        self.server.count += 1
        self.reply(200, self.server.said, content_type=self.server.kind)


class Says(Server):
    """A server that says the same whatever it is asked."""

    def __init__(self, said, kind):
        self.said, self.kind, self.count = said, kind, 0
        super().__init__(Said)


CHUNK = b'{"object":"text_completion","model":"stub-1","choices":[]}'
TEXTS = {
    "a page": (b"<html>Open WebUI</html>", "text/html", "page.*base_url"),
    "a page after white space": (b"\n\n<!DOCTYPE html>", "text/html", "page.*base_url"),
    "a page as JSON": (b"<html></html>", "application/json", "page.*base_url"),
    "a stream": (b"data: " + CHUNK + b"\n\ndata: [DONE]\n\n", "text/event-stream", "streaming off"),
    "a stream with names": (b"event: delta\ndata: {}\n\n", "text/event-stream", "streaming off"),
    "a stream that begins with a comment": (b": OPENROUTER\n\n", "text/plain", "streaming off"),
    "a word": (b"Ollama is running", "text/plain", "'Ollama is running'.*base_url"),
}


@pytest.mark.parametrize("habit", list(TEXTS))
def test_a_text_that_is_no_json_is_told_for_what_it_is(habit, store):
    said, kind, remedy = TEXTS[habit]
    with Says(said, kind).running() as server, pytest.raises(UserError, match=remedy):
        judged(server.url, store, price=PRICE)
    assert server.count == 1


@pytest.mark.parametrize("said", [b"", b'{"id": "x", "choi', b'{"model": "stub-1", "choices": [{"'])
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_half_of_a_reply_is_tried_again(said, kind, store):
    with (
        Says(said, kind).running() as server,
        pytest.raises(UserError, match="failed 3 times, last: not a whole reply"),
    ):
        judged(server.url, store)
    assert server.count == 3


# what can be read all the same


def unlabelled(request, reply):
    for choice in reply["choices"]:
        del choice["index"]
    return reply


def numbered(request, reply):
    for choice in reply["choices"]:
        choice["index"] = str(choice["index"])
    return reply


READ = {
    "no index": unlabelled,
    "index null": each(index=None),
    "index as text": numbered,
    "error null": whole(error=None),
    "parts": says(lambda t: [{"type": "text", "text": t[:3]}, {"type": "text", "text": t[3:]}]),
    "parts and thought": says(
        lambda t: [{"type": "thinking", "thinking": []}, {"type": "text", "text": t}]
    ),
    "reasoning null": says(lambda t: t, reasoning=None, reasoning_content=""),
}


@pytest.mark.parametrize("habit", list(READ))
def test_what_can_be_read_safely_is(habit, store, tmp_path):
    with Pure().running() as server:
        plain, _ = judged(server.url, store, samples=4, provider="vllm", model="stub-1")
    texts = [judgment.text for judgment in plain]
    with (
        Pure(change=READ[habit]).running() as server,
        Store(f"sqlite:///{tmp_path / 'other.sqlite'}") as other,
    ):
        found, _ = judged(server.url, other, samples=4, provider="vllm")
    assert [judgment.text for judgment in found] == texts
    assert len(server.requests) == 1


# errors that come with HTTP 200


BUSY = [
    {"error": {"message": "model is overloaded", "type": "server_error", "code": 503}},
    {"error": {"message": "slow down", "code": "429"}},
    {"error": {"message": "Rate limit exceeded", "type": "rate_limit_exceeded", "code": None}},
    {"error": "upstream timed out"},
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
]
WRONG = [
    {"object": "error", "message": "max context length is 8", "code": 400},
    {"error": {"message": "no such model", "code": 404}},
    {"error": {"message": "busy with other things than you", "code": 403}},
    {"error": {"message": "insufficient_quota: rate limit", "type": "insufficient_quota"}},
    {"error": "sampler top_k is unknown"},
]


def error_text(error):
    found = error.get("error", error)
    return found["message"] if isinstance(found, dict) else found


@pytest.mark.parametrize("error", BUSY, ids=error_text)
def test_an_error_in_http_200_that_may_pass_is_tried_again(error, store):
    with (
        Pure(change=lambda q, r: error).running() as server,
        pytest.raises(UserError, match=f"failed 3 times, last: .*{error_text(error)}"),
    ):
        judged(server.url, store, price=PRICE)
    assert len(server.requests) == store.spent().requests == 3
    assert store.spent().usd == 0


@pytest.mark.parametrize("error", WRONG, ids=error_text)
def test_an_error_in_http_200_that_stays_is_refused_with_its_words(error, store):
    with (
        Pure(change=lambda q, r: error).running() as server,
        pytest.raises(UserError, match=f"refused: .*{error_text(error)}"),
    ):
        judged(server.url, store)
    assert len(server.requests) == 1


def test_an_error_inside_a_choice_counts_as_one(store):
    error = {"code": 502, "message": "upstream gone"}
    with (
        Pure(change=each(finish_reason="error", error=error)).running() as server,
        pytest.raises(UserError, match=r"failed 3 times, last: .*upstream gone"),
    ):
        judged(server.url, store)
    assert len(server.requests) == 3


# where it is


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/completions", "/v1$"),
        ("/v1/chat/completions", "/v1$"),
        ("/api/chat/completions/", "/api$"),
        ("/v1/responses", "/v1$"),
    ],
)
def test_a_url_of_an_endpoint_is_refused_with_the_root_to_write(path, said):
    with pytest.raises(UserError, match=rf"Write base_url: http://127\.0\.0\.1:9{said}"):
        loaded("http://127.0.0.1:9", path=path)


@pytest.mark.parametrize("url", ["127.0.0.1:9", "localhost:8000", "//host", "ftp://host"])
def test_a_url_without_http_is_refused_with_what_to_write(url):
    with pytest.raises(ValidationError, match=r"one that begins with http.*Write http://\w"):
        loaded(url)


class Strict(Handler):
    def do_POST(self):
        self.body()
        self.server.count += 1
        self.reply(self.server.status, b"Not Found", content_type="text/plain")


@pytest.mark.parametrize(("path", "wanted"), [("", "/v1"), ("/", "/v1"), ("/x", "the API's root")])
@pytest.mark.parametrize("status", [404, 405])
def test_an_endpoint_that_is_not_there_is_told_with_the_url_to_try(path, wanted, status, store):
    server = Server(Strict)
    server.count, server.status = 0, status
    with server.running(), pytest.raises(UserError, match=rf"HTTP {status}.*wanted .*{wanted}"):
        judged(server.url, store, path=path)
    assert server.count == 1


# who answers


@pytest.mark.parametrize(
    "returned", ["stub-1:latest", "/models/stub-1.gguf", "acme/stub-1", "stub-1-instruct"]
)
def test_another_name_of_the_model_is_refused_with_what_to_pin(returned, store):
    with Pure(model=returned).running() as server:
        verdict = preflight.check(loaded(server.url), Budget(store))
        assert not verdict.passed
        assert f"pin it by that name: model: {returned}" in str(verdict)
        with pytest.raises(UserError, match=r"Pin the model that answers \(model: ") as caught:
            judged(server.url, store)
        assert returned in str(caught.value)
        assert preflight.check(loaded(server.url, model=returned), Budget(store)).passed


THOUGHTS = {
    "an empty block": says(lambda t: "<think>\n\n</think>\n\n" + t),
    "a block": says(lambda t: "<think>I count on.</think>" + t),
    "a block of Mistral's": says(lambda t: "[THINK]I count on.[/THINK]" + t),
    "an end alone": says(lambda t: "I count on.\n</think>\n\n" + t),
    "reasoning beside": says(lambda t: t, reasoning_content="I count on."),
    "a thought part": says(
        lambda t: [{"type": "thinking", "thinking": []}, {"type": "text", "text": t}]
    ),
}


@pytest.mark.parametrize("habit", list(THOUGHTS))
@pytest.mark.parametrize("mode", ["prefill", "instruct"])
def test_a_model_that_thinks_fails_its_check_by_name(habit, mode, store):
    with Pure(change=THOUGHTS[habit]).running() as server:
        verdict = preflight.check(loaded(server.url, mode), Budget(store))
    failed = {f.what: f.found for f in verdict.findings if not f.holds}
    assert "Switch thinking off" in failed["does not think"]


def seeded(teacher, *texts):
    """A server's change: what it answers to the repeated probe, in turn."""
    story = [{"role": "user", "content": preflight.STORY[0]}]
    seed = seed_for(teacher.prompt(story, [], preflight.STORY[1]), preflight.SAMPLES[1])
    turn = iter(texts)

    def change(request, reply):
        if request["seed"] == seed:
            reply["choices"][0]["message"]["content"] = next(turn)
        return reply

    return change


@pytest.mark.parametrize(
    ("texts", "provider", "state"),
    [
        (("a", "a", "a"), "vllm", "ok"),
        (("a", "a", "b"), "vllm", "WARNING"),
        (("a", "b", "a"), "other", "WARNING"),
        (("a", "b", "c"), "vllm", "FAILED"),
        (("a", "b", "c"), "llama.cpp", "FAILED"),
        (("a", "b", "c"), "other", "WARNING"),
    ],
)
def test_one_probe_repeated_with_its_seed_tells_two_models_behind_a_name(
    texts, provider, state, store
):
    with Pure().running() as server:
        teacher = loaded(server.url, provider=provider)
        server.change = seeded(teacher, *texts)
        verdict = preflight.check(teacher, Budget(store))
    (line,) = [line for line in str(verdict).splitlines() if "one model answers" in line]
    assert line.split()[0] == state
    assert verdict.passed == (state != "FAILED")
    if state == "ok":
        assert "3 times with one seed: equal" in line


def test_a_provider_without_seeds_is_not_asked_again(store):
    with Pure().running() as server:
        verdict = preflight.check(loaded(server.url, provider="sglang"), Budget(store))
    assert "one model answers" not in str(verdict)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("prints", "state"),
    [((None,), None), (("fp_1",), "ok"), (("fp_1", "fp_2"), "WARNING"), ((7, "a", ""), "WARNING")],
)
def test_system_fingerprints_are_compared_and_several_are_named(prints, state, store):
    turn = iter(range(99))

    def change(request, reply):
        return reply | {"system_fingerprint": prints[next(turn) % len(prints)]}

    with Pure(change=change).running() as server:
        verdict = preflight.check(loaded(server.url), Budget(store))
    assert verdict.passed
    lines = [line for line in str(verdict).splitlines() if "system_fingerprint" in line]
    assert [line.split()[0] for line in lines] == ([state] if state else [])
    assert all(str(found) in str(lines) for found in prints if found)


def test_a_run_counts_the_fingerprints_and_tells_a_change_once(store, caplog):
    turn = iter(range(99))
    caplog.set_level(logging.WARNING)

    def change(request, reply):
        return reply | {"system_fingerprint": f"fp_{next(turn) // 2}"}

    with Pure(change=change).running() as server:
        _, run = judged(server.url, store, samples=6)
    assert run.ledger.fingerprints == {"fp_0": 2, "fp_1": 2, "fp_2": 2}
    assert caplog.text.count("system_fingerprint changed from fp_0 to fp_1") == 1
    assert caplog.text.count("system_fingerprint") == 1


# when to ask again


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("1.5", 1.5),
        ("2s", 2),
        (" 7 ", 7),
        ("0", 0),
        ("-1", 0),
        ("-inf", 0),
        ("inf", 300),
        ("1e999", 300),
        ("99999999999999999999", 300),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0),
        ("Wed, 21 Oct 9999 07:28:00 GMT", 300),
    ],
)
def test_retry_after_is_read_within_bounds(said, seconds):
    assert calls.status_error(429, "busy", {"retry-after": said}).retry_after == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_a_retry_after_that_is_a_date_counts_from_now(zone):
    date = formatdate(time.time() + 30, usegmt=True).replace("GMT", zone)
    assert 28 <= calls.status_error(503, "busy", {"retry-after": date}).retry_after <= 30


@pytest.mark.parametrize(
    "said",
    [
        *("", "nan", "NaNs", "s", "soon", "2 minutes", "²", "0x10"),
        "Wed, 99 Oct 2026 07:28:00 GMT",
        "Wed, 21 Oct 99999999999999999999 07:28:00 GMT",
    ],
)
def test_a_retry_after_that_says_nothing_is_none(said):
    assert calls.status_error(429, "busy", {"retry-after": said}).retry_after is None
