"""The adapters through the real SDKs against servers of each wire format: sent, and gone wrong."""

import json
import time
from dataclasses import replace

import pytest

from pipeline.config.teachers import Price
from pipeline.core.errors import UserError
from pipeline.teachers.wire.calls import Call
from tests.providers import MESSAGES, MODELS, PREFIX, RETURNED, Scripted, ask, judging, message

providers = pytest.mark.parametrize("provider", list(MODELS))
pytestmark = pytest.mark.usefixtures("quick")


# what is sent


@providers
def test_the_prefix_is_sent_as_the_mode_says_with_every_sampler_setting(provider, store, tmp_path):
    with Scripted(provider).running() as server:
        found = ask(judging(provider, server.url, store, tmp_path))
    (request,) = server.requests
    assert found[0, 0].text.startswith("13")
    assert not found[0, 0].ended
    match provider:
        case "openai":
            assert server.paths == ["/v1/chat/completions"]
            assert PREFIX in request["messages"][-1]["content"]
            assert request["messages"][-1]["role"] == "user"
            assert (request["temperature"], request["top_p"]) == (1.0, 1.0)
            assert request["seed"] == found[0, 0].seed
        case "anthropic":
            assert server.paths == ["/v1/messages"]
            assert request["messages"][-1] == {"role": "assistant", "content": PREFIX.rstrip()}
            assert request["system"] == "Be brief."
            assert request["temperature"] == 1.0
            assert "top_p" not in request  # this family takes one of the two
        case _:
            assert server.paths == ["/v1beta/models/gemini-2.5-flash:generateContent"]
            assert request["contents"][-1]["role"] == "model"
            assert request["contents"][-1]["parts"] == [{"text": PREFIX.rstrip()}]
            sent = request["generationConfig"]
            assert sent["thinkingConfig"] == {"thinking_budget": 0}
            assert (sent["temperature"], sent["seed"]) == (1.0, found[0, 0].seed)
    assert found[0, 0].model_returned == RETURNED[provider]
    assert (found[0, 0].prompt_tokens, found[0, 0].completion_tokens) == (20, 3)


def test_n_is_one_request_where_the_provider_takes_it_and_one_a_sample_elsewhere(store, tmp_path):
    for provider, requests in (("openai", 1), ("google", 1), ("anthropic", 5)):
        with Scripted(provider).running() as server:
            found = ask(judging(provider, server.url, store, tmp_path, samples=5))
        assert len(server.requests) == requests
        assert len({judgment.text for judgment in found.values()}) == 5


@providers
def test_a_second_run_asks_nothing_and_more_samples_ask_only_for_the_new(provider, store, tmp_path):
    with Scripted(provider).running() as server:
        ask(judging(provider, server.url, store, tmp_path, samples=2))
        asked = len(server.requests)
        ask(judging(provider, server.url, store, tmp_path, samples=2))
        assert len(server.requests) == asked
        ask(judging(provider, server.url, store, tmp_path, samples=4))
    assert sum(map(server.asked, server.requests)) == 4


# what goes wrong


def cut(handler):
    """Half of the reply that was announced."""
    data = json.dumps(message(handler.server.provider, ["13"])).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True


def slow(handler):
    time.sleep(4)
    handler.close_connection = True


TRANSIENT = {
    "429 with Retry-After": (429, {"error": {"message": "slow down"}}, {"Retry_After": "0.2"}),
    "529": (529, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, {}),
    "500": (500, {"error": {"message": "oops"}}, {}),
    "timeout": slow,
    "cut connection": cut,
    "truncated JSON": (200, b'{"id": "x", "choi', {}),
    "half without a type": (200, b'{"id": "x", "choi', {"content_type": "text/plain"}),
}


@providers
@pytest.mark.parametrize("fault", list(TRANSIENT))
def test_a_transient_error_is_tried_again_and_the_answer_kept_once(
    provider, fault, store, tmp_path
):
    start = time.monotonic()
    with Scripted(provider, [TRANSIENT[fault]]).running() as server:
        patience = {"timeout_seconds": 2.0} if fault == "timeout" else {}
        found = ask(judging(provider, server.url, store, tmp_path, **patience))
    assert found[0, 0].text.startswith("13")
    assert len(server.requests) == 2
    assert store.stats().answers == 1
    assert store.spent().requests == 2  # the failed one counts as sent
    if fault == "429 with Retry-After":
        assert time.monotonic() - start >= 0.2


@providers
def test_when_tries_are_used_up_teacher_request_and_remedy_are_named(provider, store, tmp_path):
    with (
        Scripted(provider, [TRANSIENT["500"]] * 9).running() as server,
        pytest.raises(UserError) as caught,
    ):
        ask(judging(provider, server.url, store, tmp_path))
    assert len(server.requests) == 4
    for said in ("teacher it", MODELS[provider], "failed 4 times", "500", "tries"):
        assert said in str(caught.value)
    assert store.stats().answers == 0
    assert store.spent().requests == 4


MISMATCHED = {
    "a page": (200, b"<html>hello</html>", {"content_type": "text/html"}),
    "a page that says it is JSON": (200, b"<!doctype html>\n<p>hello", {}),
    "a word": (200, b"Ollama is running", {}),
    "another shape": (200, {"hello": "world"}, {}),
    "a redirect": (307, b"", {"Location": "http://elsewhere.invalid/v1"}),
}


@providers
@pytest.mark.parametrize("fault", list(MISMATCHED))
def test_what_another_try_would_meet_again_is_refused_at_once_and_not_paid(
    provider, fault, store, tmp_path
):
    price = Price(input=1e6, output=1e6)
    with (
        Scripted(provider, [MISMATCHED[fault]] * 9).running() as server,
        pytest.raises(UserError, match="refused: "),
    ):
        ask(judging(provider, server.url, store, tmp_path, price=price))
    assert len(server.requests) == 1
    assert (store.spent().requests, store.spent().usd) == (1, 0)


@providers
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_named_and_neither_text_nor_key_go_where_it_leads(
    provider, status, store, tmp_path
):
    with Scripted(provider).running() as other:
        script = [(status, b"", {"Location": f"{other.url}/v1/elsewhere?key=sk-canary"})]
        with (
            Scripted(provider, script).running() as server,
            pytest.raises(UserError, match=rf"HTTP {status}: redirected to {other.url}") as caught,
        ):
            ask(judging(provider, server.url, store, tmp_path))
    assert len(server.requests) == 1
    assert other.requests == []
    assert "base_url" in str(caught.value)
    assert "sk-canary" not in str(caught.value)


PREFILL_REFUSED = {
    "openai": {"error": {"message": "prefill is not supported"}},
    "anthropic": {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "This model does not support assistant message prefill. The conversation "
            "must end with a user message.",
        },
    },
    "google": {
        "error": {"code": 400, "message": "Prefill is not supported", "status": "INVALID_ARGUMENT"}
    },
}


@pytest.mark.parametrize("provider", ["anthropic", "google"])
def test_a_400_about_prefill_names_the_mode_to_use(provider, store, tmp_path):
    with (
        Scripted(provider, [(400, PREFILL_REFUSED[provider], {})]).running() as server,
        pytest.raises(UserError, match=r"teach\.continuation: instruct"),
    ):
        ask(judging(provider, server.url, store, tmp_path))
    assert len(server.requests) == 1  # another try would meet it again


@pytest.mark.parametrize("model", ["claude-opus-4-6", "gemini-3.8-flash"])
def test_a_family_known_to_refuse_prefill_is_refused_before_any_request(model, store, tmp_path):
    provider = "anthropic" if "claude" in model else "google"
    with pytest.raises(UserError, match=r"teach\.continuation: instruct"):
        judging(provider, "http://127.0.0.1:9", store, tmp_path, mode="prefill", model=model)


@providers
def test_a_wrong_key_is_not_tried_again_and_never_shown(provider, store, tmp_path):
    body = {"error": {"message": "Incorrect API key provided: sk-canary", "code": 401}}
    with (
        Scripted(provider, [(401, body, {})]).running() as server,
        pytest.raises(UserError) as caught,
    ):
        ask(judging(provider, server.url, store, tmp_path))
    assert len(server.requests) == 1
    assert "sk-canary" not in str(caught.value)
    assert "401" in str(caught.value)


@providers
def test_a_missing_key_names_the_variable(provider, store, tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match="API_KEY is not set"):
        ask(judging(provider, "http://127.0.0.1:9", store, tmp_path))


@providers
def test_another_model_than_the_pinned_one_stops_and_nothing_of_it_is_stored(
    provider, store, tmp_path
):
    reply = message(provider, ["13"], model="something-newer")
    with (
        Scripted(provider, [(200, reply, {})]).running() as server,
        pytest.raises(UserError, match="answered by something-newer"),
    ):
        ask(judging(provider, server.url, store, tmp_path))
    assert len(server.requests) == 1
    assert store.stats().answers == 0
    assert (store.spent().requests, store.spent().tokens) == (1, 23)  # it was paid for


@pytest.mark.parametrize("provider", ["openai", "google"])  # Anthropic has no n
def test_fewer_choices_than_n_are_kept_and_the_rest_is_asked_for(provider, store, tmp_path):
    short = message(provider, ["13 a", "13 b"])
    with Scripted(provider, [(200, short, {})]).running() as server:
        found = ask(judging(provider, server.url, store, tmp_path, samples=5))
    assert list(map(server.asked, server.requests)) == [5, 3]
    assert [found[0, s].text for s in range(2)] == ["13 a", "13 b"]
    assert len({judgment.key for judgment in found.values()}) == 5
    second = server.requests[1]
    assert (second.get("seed") or second["generationConfig"]["seed"]) == found[0, 2].seed


@providers
def test_an_empty_answer_is_one_where_the_teacher_ended_and_a_failure_elsewhere(
    provider, store, tmp_path
):
    script = [
        (200, message(provider, [""], "length"), {}),
        (200, message(provider, [""], "stop"), {}),
    ]
    with Scripted(provider, script).running() as server:
        run = judging(provider, server.url, store, tmp_path)
        found = ask(run)
    assert run.ledger.failures == {"failed-empty": 1}
    assert (found[0, 0].text, found[0, 0].ended, found[0, 0].attempt) == ("", True, 1)
    assert (store.stats().answers, store.stats().failures) == (2, 1)


@providers
def test_a_refusal_is_kept_with_its_reason_and_drawn_again(provider, store, tmp_path):
    refusal = message(provider, ["no"], "stop" if provider == "openai" else "refusal")
    if provider == "openai":
        refusal["choices"][0]["message"] = {"content": None, "refusal": "I can't do that"}
    with Scripted(provider, [(200, refusal, {})]).running() as server:
        run = judging(provider, server.url, store, tmp_path)
        found = ask(run)
    assert run.ledger.failures == {"refusal": 1}
    assert found[0, 0].attempt == 1
    assert len(server.requests) == 2


@providers
def test_when_too_many_draws_fail_what_is_in_flight_is_kept(provider, store, tmp_path):
    refusal = message(provider, ["no"], "stop" if provider == "openai" else "refusal")
    if provider == "openai":
        refusal["choices"][0]["message"] = {"content": None, "refusal": "I can't do that"}
    with Scripted(provider, [(200, refusal, {})] * 99).running() as server:
        run = judging(provider, server.url, store, tmp_path)
        run.wanted = replace(run.wanted, max_failure_rate=0.1)
        with pytest.raises(UserError, match=r"more than teach\.max_failure_rate"):
            ask(run, [f"8+5={i}" for i in range(99)])
    assert 50 <= len(server.requests) < 60  # the concurrency is 4
    assert store.stats().answers == store.spent().requests == len(server.requests)


def test_a_reply_that_broke_off_counts_as_billed_and_an_error_does_not(store, tmp_path):
    faults = [TRANSIENT["500"], cut, TRANSIENT["truncated JSON"]]
    price = Price(input=1e6, output=0.0)  # a dollar a token
    with Scripted("anthropic", faults).running() as server:
        run = judging("anthropic", server.url, store, tmp_path, price=price)
        ask(run)
    worst, _ = run.teacher.worst(Call(0, run.teacher.prompt(MESSAGES, [], PREFIX), (None,), 12))
    assert store.spent().usd == pytest.approx(20 + 2 * worst)
    assert store.spent().requests == 4


@providers
def test_what_could_not_be_sent_is_neither_counted_nor_paid(provider, store, tmp_path):
    price = Price(input=1e6, output=1e6)
    run = judging(provider, "http://127.0.0.1:9", store, tmp_path, price=price)
    with pytest.raises(UserError, match=r"not reached in 4 tries.*base_url"):
        ask(run)
    assert (store.spent().requests, store.spent().usd) == (0, 0)
