"""What is spent: counted before, checked before the first cent, stopped at the limit, resumed."""

import dataclasses
import json
import logging
import math
import os
import re
import time
from datetime import date

import pytest

from pipeline import teachers
from pipeline.commands.estimate import estimate as costs
from pipeline.config import params
from pipeline.config.teachers import OpenAICompatibleTeacher, Price
from pipeline.core.errors import UserError
from pipeline.judgments.ledger import Entry
from pipeline.judgments.store import Store
from pipeline.teachers import protocol
from pipeline.teachers.capabilities import OWN, TABLE, TERMS, capability
from pipeline.teachers.purchase import buyer, preflight
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.buyer import Judging, Wanted
from pipeline.teachers.purchase.requests import Response
from tests import providers
from tests.project import Project
from tests.providers import PREFIX, Batches, Scripted
from tests.servers import Pure, text_of
from tests.teachers.test_hosted import answers, api, run_json, setup, store_url, teach

PREFIXES = [f"{n}+5=" for n in range(10)]
SAMPLES = 3
ALL = SAMPLES * len(PREFIXES)  # one request a sample: n of this server is unknown
PRICE = Price(input=1000.0, output=5000.0)


def loaded(url, mode="prefill", **more):
    """A teacher of Pure's API; `provider` other than OpenAI's needs no key."""
    found = {"kind": "openai_compatible", "model": "stub-1", "base_url": f"{url}/v1", **more}
    config = OpenAICompatibleTeacher(**{"concurrency": 8, "tries": 1, **found})
    asked = protocol.Asked(mode, 1.0, "live", params.Runtime())
    return teachers.load(config, "it", asked, None, None)


def buying(url, store, max_requests=None, max_usd=None, **more):
    teacher = loaded(url, **more)
    wanted = Wanted(SAMPLES, 12, 0, 3, 1.0, False)
    return Judging(teacher, wanted, Budget(store, max_requests, max_usd))


def ask(judging):
    return providers.ask(judging, PREFIXES)


# the budget


@pytest.fixture
def server():
    with Pure(seconds=0.01).running() as found:
        yield found


def test_a_limit_on_requests_is_met_exactly_and_a_higher_one_buys_only_the_rest(server, store):
    with pytest.raises(UserError, match=r"teach\.max_requests is 11.*Raise the limit") as caught:
        ask(buying(server.url, store, max_requests=11))
    assert "Every answer that arrived is in the store" in str(caught.value)
    assert len(server.requests) == store.stats().answers == store.spent().requests == 11
    with pytest.raises(UserError, match=r"teach\.max_requests is 11"):
        ask(buying(server.url, store, max_requests=11))
    assert len(server.requests) == 11
    assert len(ask(buying(server.url, store, max_requests=ALL))) == ALL
    assert len(server.whole) == ALL
    assert set(server.whole.values()) == {1}


def test_a_limit_of_zero_sends_nothing(server, store):
    with pytest.raises(UserError, match=r"teach\.max_requests is 0"):
        ask(buying(server.url, store, max_requests=0))
    assert server.requests == []


def at_its_most(request, reply):
    """As many tokens as were set aside for the request."""
    limit = request["max_tokens"] * len(reply["choices"])
    prompt = json.dumps(request["messages"], sort_keys=True, separators=(",", ":"))
    reply["usage"] = {"prompt_tokens": len(prompt) // 3, "completion_tokens": limit}
    return reply


@pytest.mark.parametrize("change", [at_its_most, lambda request, reply: reply])
def test_dollars_never_pass_their_limit_and_a_higher_one_buys_only_the_rest(change, store):
    billed = []

    def bill(request, reply):
        reply = change(request, reply)
        used = reply["usage"]
        billed.append(
            PRICE.input * used["prompt_tokens"] + PRICE.output * used["completion_tokens"]
        )
        return reply

    with Pure(seconds=0.01, change=bill).running() as server:
        most = 1.5
        with pytest.raises(UserError, match=r"teach\.max_usd is 1\.5.*Raise the limit"):
            ask(buying(server.url, store, max_usd=most, price=PRICE))
        first = len(server.requests)
        assert 0 < first < ALL
        assert sum(billed) / 1e6 <= most
        assert store.stats().answers == first
        assert store.spent().usd == pytest.approx(sum(billed) / 1e6)
        assert len(ask(buying(server.url, store, max_usd=10.0, price=PRICE))) == ALL
        assert len(server.requests) == ALL
        assert store.spent().usd == pytest.approx(sum(billed) / 1e6)


TOKENS = Price(input=0.0, output=1e6)  # a dollar a token: $12 are set aside for an answer


def ignoring(tokens):
    """A server's change: so many tokens an answer, whatever max_tokens is."""

    def change(request, reply):
        reply["usage"]["completion_tokens"] = tokens
        return reply

    return change


@pytest.mark.parametrize(("most", "requests"), [(1200.0, 10), (1320.0, 11), (240.0, 8), (96.0, 8)])
def test_a_server_that_ignores_max_tokens_takes_no_more_than_was_in_flight_when_it_was_seen(
    most, requests, store, caplog
):
    with (  # ten times the estimate, eight at a time
        Pure(seconds=0.05, change=ignoring(120)).running() as server,
        pytest.raises(UserError, match=r"10\.00 times their estimate.*teach\.max_usd"),
    ):
        ask(buying(server.url, store, max_usd=most, price=TOKENS))
    assert len(server.requests) == requests
    assert store.spent().usd == requests * 120.0 <= max(most, 8 * 120.0)
    assert caplog.text.count("10.0 times what was set aside for it ($12.0000)") == 1


def test_the_check_of_a_teacher_teaches_what_its_answers_cost(store):
    def change(request, reply):
        return ignoring(3 * request["max_tokens"])(request, reply)

    with Pure(change=change).running() as server:
        run = buying(server.url, store, max_usd=1000.0, price=TOKENS)
        preflight.check(run.teacher, run.budget)
        checked = store.spent().usd
        assert run.budget.overrun.times == pytest.approx(3.0)
        with pytest.raises(UserError, match=r"3\.00 times their estimate"):
            ask(run)
    assert 0 < 1000.0 - store.spent().usd < 36.0 < checked  # no room for one more


def test_what_broke_off_counts_at_the_cost_that_was_seen(store):
    budget = Budget(store, max_usd=100.0)
    budget.overrun.learn(2.0, 10.0)
    budget.overrun.learn(2.0, 1.0)  # a cheap one later takes nothing back
    budget.overrun.learn(0.0, 1.0)
    assert budget.take(2.0)
    budget.failed(2.0, billed=True)
    assert store.spent().usd == 10.0
    assert budget.take(18.0)
    assert not budget.take(0.1)


def test_a_batch_is_set_aside_at_the_cost_that_was_seen_before(store, tmp_path, quick):
    class Costly(Batches):
        def results(self, number):
            found = super().results(number)
            for _, _, reply in found:
                reply["usage"]["output_tokens"] = 120
            return found

    price = Price(input=0.0, output=1e6, batch=1.0)
    with Costly("anthropic").running() as server:
        how = {"transport": "batch", "price": price}
        run = providers.judging("anthropic", server.url, store, tmp_path, **how)
        run.budget.max_usd = 700.0
        providers.ask(run, PREFIXES[:3])
        with pytest.raises(UserError, match=r"10\.00 times their estimate"):
            providers.ask(run, PREFIXES[3:])
    assert [len(sent) for sent in server.batches] == [3, 2]
    assert store.spent().usd == 600.0


def test_a_limit_holds_for_the_same_project_in_a_later_process_and_for_no_other(server, tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    with Store(url, "mine") as store, pytest.raises(UserError, match="max_requests"):
        ask(buying(server.url, store, max_requests=9))
    with Store(url, "mine") as later, pytest.raises(UserError, match="9 requests sent"):
        ask(buying(server.url, later, max_requests=9))
    assert len(server.requests) == 9
    with Store(url, "mine") as later, pytest.raises(UserError, match="max_requests"):
        ask(buying(server.url, later, max_requests=12))
    assert len(server.requests) == 12
    with Store(url, "another") as other, pytest.raises(UserError, match="max_requests"):
        ask(buying(server.url, other, max_requests=9))
    assert len(server.requests) == 21


def test_what_another_process_spends_meanwhile_is_seen(tmp_path, store, monkeypatch):
    monkeypatch.setattr("pipeline.teachers.purchase.budget.LOOK_SECONDS", -1.0)
    budget = Budget(store, 10, 1.0)
    assert budget.take(0.1)
    with Store(f"sqlite:///{tmp_path / 'judgments.sqlite'}", "project") as other:
        other.enter(Entry(requests=3, usd=0.85))
    assert not budget.take(0.1)  # 0.85 spent, 0.1 in flight
    assert "teach.max_usd is 1.0" in budget.refused


def test_a_long_wait_for_another_process_is_said_once_with_when_its_claims_lapse(
    server, tmp_path, store, monkeypatch, caplog
):
    monkeypatch.setattr(buyer, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(buyer, "TOLD_SECONDS", 0.2)
    run = buying(server.url, store)
    places = [(0, p, s) for p in range(len(PREFIXES)) for s in range(SAMPLES)]
    wanted = dict(run.requests([providers.response(run, PREFIXES)], places, 0))
    with Store(f"sqlite:///{tmp_path / 'judgments.sqlite'}", "another") as other:
        other.claims.claim(wanted.values(), 12, lease=1.5)
        lapse = time.ctime(other.claims.expiry([next(iter(wanted.values())).key]))
        assert len(ask(run)) == ALL
    (said,) = [x for x in caplog.messages if "is buying" in x]
    assert f"waiting for {ALL} answers that process {os.getpid()} on" in said
    assert f"lapse at {lapse}" in said


def test_a_failed_request_counts_as_sent_and_costs_nothing(store, quick, tmp_path):
    error = (500, {"error": {"message": "oops"}}, {})
    with Scripted("openai", [error, error]).running() as server:
        run = providers.judging("openai", server.url, store, tmp_path, price=PRICE)
        run.budget.max_requests = 3
        providers.ask(run)
        with pytest.raises(UserError, match=r"teach\.max_requests is 3"):
            providers.ask(run, ("9+9=",))
    assert len(server.requests) == store.spent().requests == 3
    assert store.spent().usd == pytest.approx((20 * PRICE.input + 3 * PRICE.output) / 1e6)


# what has to be settled before the first request


def checked(judging, accepted=()):
    """With what the stage does before it spends."""
    prepare = preflight.before_spending(judging.teacher, judging.budget, accepted)
    judging.before_spending = prepare
    return judging


def test_max_usd_without_a_price_is_refused_before_any_request(server, store):
    with pytest.raises(UserError, match=r"teachers\.it has no price.*price: \{input"):
        ask(checked(buying(server.url, store, max_usd=5.0)))
    assert server.requests == []


FREE = {
    "live": Price(input=0.0, output=0.0),
    "batch": Price(input=1, output=1, batch=0),
}


@pytest.mark.parametrize("transport", list(FREE))
def test_max_usd_with_a_price_of_zero_is_refused_of_a_service_and_said_of_ones_own_server(
    transport, store, tmp_path, quick, caplog
):
    budget, how = Budget(store, max_usd=5.0), {"transport": transport, "price": FREE[transport]}
    paid = providers.judging("anthropic", "http://127.0.0.1:9", store, tmp_path, **how).teacher
    with pytest.raises(UserError, match=r"max_usd is 5\.0.*everything costs \$0.*write its price"):
        preflight.allowed(paid, budget, ("anthropic",))
    preflight.allowed(paid, Budget(store), ("anthropic",))
    own = loaded("http://127.0.0.1:9", price=FREE["live"])
    preflight.allowed(own, Budget(store), ())
    assert caplog.text == ""
    preflight.allowed(own, budget, ())
    assert "the limit would stop nothing. Set teach.max_requests" in caplog.text


@pytest.mark.parametrize("provider", sorted(TERMS))
def test_a_paid_provider_needs_its_terms_accepted_before_any_request(
    provider, server, store, monkeypatch
):
    monkeypatch.setattr("pipeline.teachers.wire.api_keys.KEYS", {})
    models = {"openai": "gpt-4.1", "deepseek": "deepseek-chat", "groq": "llama-3.3-70b-versatile"}
    models["mistral"] = "mistral-small-2603"
    if provider in ("anthropic", "google"):
        config = providers.config(provider, server.url)
        asked = protocol.Asked(providers.MODES[provider], 1.0, "live", params.Runtime())
        run = Judging(
            teachers.load(config, "it", asked, None, None),
            Wanted(1, 12, 0, 3, 1.0, False),
            Budget(store),
        )
    else:
        run = buying(
            server.url,
            store,
            mode="instruct",
            provider=provider,
            model=models.get(provider, "some-model"),
        )
    with pytest.raises(UserError, match=r"teach\.accept_terms") as caught:
        ask(checked(run, ("somebody-else",)))
    assert TERMS[provider] in str(caught.value)
    assert f"teach.accept_terms: {provider}" in str(caught.value)
    assert server.requests == []


def test_the_check_comes_once_before_the_first_purchase_and_is_remembered(server, store, caplog):
    caplog.set_level(logging.INFO, "omniopd")
    ask(checked(buying(server.url, store)))
    probes = len(server.requests) - len(server.answers)
    assert probes == sum(preflight.SAMPLES.values()) + preflight.REPEATS
    assert all("lighthouse" in str(r) or "Count from" in str(r) for r in server.requests[:probes])
    assert "It may be used." in caplog.text
    assert store.spent().requests == len(server.requests)  # the check is paid for too
    run = checked(buying(server.url, store))
    run.wanted = dataclasses.replace(run.wanted, samples=SAMPLES + 1)
    ask(run)
    assert len(server.requests) == probes + ALL + len(PREFIXES)  # no second check


def test_what_is_all_in_the_store_needs_no_check_and_no_terms(server, store):
    ask(buying(server.url, store))
    asked = len(server.requests)
    ask(checked(buying(server.url, store, max_usd=1.0)))
    assert len(server.requests) == asked


def test_another_server_mode_sampler_or_tokenizer_is_checked_by_itself(server):
    found = [
        loaded(server.url),
        loaded(server.url, mode="instruct"),
        loaded("http://127.0.0.1:9"),
        loaded(server.url, provider="vllm"),
        loaded(server.url, model="stub-2"),
        loaded(server.url, tokenizer="elsewhere"),
    ]
    assert len(set(map(preflight.identity, found))) == len(found)
    assert preflight.identity(loaded(server.url, concurrency=1)) == preflight.identity(found[0])


def test_the_check_stops_at_the_budget_too(server, store):
    with pytest.raises(UserError, match=r"teach\.max_requests is 4"):
        ask(checked(buying(server.url, store, max_requests=4)))
    assert len(server.requests) == 4
    assert server.answers == []


# teachers that misbehave


def texts(of):
    """A server's change that replaces the texts, told the request and each choice's number."""

    def change(request, reply):
        for i, choice in enumerate(reply["choices"]):
            text = of(request, i)
            if text is not None:
                choice["message"]["content"] = text
        return reply

    return change


def counts(request):
    return "Count from" in str(request)


def endless(request, reply):
    reply["usage"]["completion_tokens"] = 300
    for choice in reply["choices"]:
        choice["message"]["content"] *= 20
        choice["finish_reason"] = "stop"
    return reply


FAULTS = {
    "continues the prefix": texts(lambda r, i: "1, 2, 3, 4, 5, 6, 7" if counts(r) else None),
    "samples differ": texts(lambda r, i: None if counts(r) else "lit the lamp."),
    "token limit holds": endless,
    "the pinned model answers": lambda request, reply: reply | {"model": "stub-2-turbo"},
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_teacher_that_misbehaves_is_found_out_and_stops_the_stage_with_nothing_bought(
    fault, store
):
    with Pure(change=FAULTS[fault]).running() as server:
        verdict = preflight.check(loaded(server.url), Budget(store))
        assert [f.what for f in verdict.findings if not f.holds] == [fault]
        assert not verdict.passed
        run = checked(buying(server.url, store))
        with pytest.raises(UserError, match=r"did not pass its check.*omniopd teacher check"):
            ask(run)
        assert server.answers == []
        assert store.stats().answers == 0
        assert not store.checked(preflight.identity(run.teacher))


def test_a_good_teacher_passes_in_every_mode_of_messages(store):
    for mode in ("prefill", "instruct"):
        with Pure().running() as server:
            verdict = preflight.check(loaded(server.url, mode=mode), Budget(store))
        assert verdict.passed, str(verdict)
        assert "10 requests, 120 tokens, no price" in str(verdict)


def test_choices_of_unequal_length_in_one_reply_are_within_the_limit(store):
    """Providers count the tokens of a reply, not those of each of its n choices."""

    def uneven(request, reply):
        reply["usage"]["completion_tokens"] = request["max_tokens"] * len(reply["choices"])
        return texts(lambda r, i: None if counts(r) else text_of(str(r), i, 8 * (i + 1)))(
            request, reply
        )

    with Pure(change=uneven).running() as server:
        verdict = preflight.check(loaded(server.url, provider="vllm"), Budget(store))
    assert len(server.requests) == 2 + 3  # n in one request, and one sample three times more
    assert verdict.passed, str(verdict)


def test_a_teacher_that_starts_over_in_prefill_is_told_the_mode_that_helps(store):
    with Pure(change=FAULTS["continues the prefix"]).running() as server:
        verdict = preflight.check(loaded(server.url), Budget(store))
    assert "set teach.continuation: instruct" in str(verdict)


def test_a_retired_family_fails_from_that_day_on_and_names_its_successor(store, quick, tmp_path):
    with Scripted("google").running() as server:
        teacher = providers.judging("google", server.url, store, tmp_path).teacher
        for today, holds in ((date(2026, 11, 30), True), (date(2026, 12, 1), False)):
            verdict = preflight.check(teacher, Budget(store), today)
            found = {f.what: f for f in verdict.findings}["retirement"]
            assert found.holds is holds
            assert "2026-12-01" in found.found
            assert "gemini-3.5-flash" in found.found


# the command `omniopd teacher check`


@pytest.fixture
def fresh(tmp_path):
    """A project in which nothing ever ran."""
    return Project(tmp_path / "fresh")


def taught(project, url, **edits):
    project.edit(
        experiment__arms=["omniopd"],
        teachers={"api": api(url), "home": {"kind": "local", "model": "careful"}},
        arms={"omniopd": {}},
        **{"teach__teacher": "api", "teach__continuation": "prefill", **edits},
    )


def check(project, *more):
    return project.run("omniopd", "teacher", "check", *more, check=False)


def test_the_command_passes_a_good_teacher_and_remembers_it(fresh, server):
    taught(fresh, server.url)
    done = check(fresh)
    assert done.returncode == 0
    assert "\nteacher api (other stub-1, prefill)\n" in done.stdout
    assert "It may be used." in done.stdout
    assert len(server.requests) == 10
    with Store(store_url(fresh)) as store:
        assert store.checked(preflight.identity(loaded(server.url)))


def test_the_command_checks_a_teacher_by_one_line(fresh, server):
    taught(fresh, server.url, teach__teacher="home")
    done = check(fresh, f"{server.url}#stub-1")
    assert done.returncode == 0, done.stderr
    assert "It may be used." in done.stdout


def test_the_command_prints_a_table_exits_1_and_is_overruled_by_force(fresh):
    with Pure(change=FAULTS["samples differ"]).running() as server:
        taught(fresh, server.url)
        done = check(fresh, "api")
        assert done.returncode == 1
        *rows, end = done.stdout.partition("teacher api (")[2].splitlines()[1:]
        assert len(rows) == 8
        assert [row.split()[0] for row in rows] == ["ok", "FAILED", *["ok"] * 6]
        assert len({re.match(r"\S+ +", row).end() for row in rows}) == 1  # columns
        assert "1 of 4 distinct" in rows[1]
        assert end == "It may not be used like this."
        with Store(store_url(fresh), "another") as store:
            with pytest.raises(UserError, match="did not pass"):
                ask(checked(buying(server.url, store)))
            assert check(fresh, "--force").returncode == 0
            assert len(ask(checked(buying(server.url, store)))) == ALL


def test_the_command_refuses_what_it_cannot_check_before_any_request(fresh, server):
    taught(fresh, server.url)
    assert "needs no check" in check(fresh, "home").stderr
    assert "one of ['api', 'home']" in check(fresh, "nobody").stderr
    fresh.edit(teach__max_usd=1.0)
    assert "has no price" in check(fresh).stderr
    fresh.edit(teach__max_usd=None, teachers__api__provider="openrouter")
    done = check(fresh)
    assert done.returncode == 2
    assert "openrouter.ai/terms" in done.stderr
    assert server.requests == []


# the estimate


def estimate(project, **env):
    """Rows and total, parsed; every number is finite and the total is the rows' sum."""
    done = project.run("omniopd", "estimate", "--json", **env)
    found = json.loads(done.stdout)
    for name, value in found["total"].items():
        assert math.isfinite(value)
        assert value == pytest.approx(sum(row[name] for row in found["rows"]))
    return found["rows"], found["total"]


COUNTS = ("answers", "requests", "input_tokens", "output_tokens", "usd", "hours")


@pytest.fixture
def ready(small, tmp_path):
    """The small project, whose forks exist, with nothing in its store."""
    project = small.copy(tmp_path / "ready")
    (project.folder / "judgments.sqlite").unlink()
    return project


def test_before_anything_ran_the_estimate_is_at_least_what_it_is_with_forks(fresh, ready, server):
    for project in (fresh, ready):
        taught(project, server.url)
        project.edit(teachers__api__price={"input": 1.0, "output": 5.0})
        project.edit(teachers__api__api_key_env="OMNIOPD_TEST_KEY")  # which is not set
    for mode in ("prefill", "instruct"):
        for project in (fresh, ready):
            project.edit(teach__continuation=mode)
        ((guess,), most), ((found,), exact) = estimate(fresh), estimate(ready)
        assert guess["counted"] == "at most, from params"
        assert found["counted"] == "exactly"
        assert guess["answers"] == guess["requests"] == 8 * 4 * 3 * 3
        assert all(most[name] >= exact[name] > 0 for name in COUNTS)
        assert most["held"] == exact["held"] == 0
    assert server.requests == []


def test_the_estimate_is_what_the_run_then_buys_and_asks_nothing_itself(ready, server):
    project = ready
    setup(project, server.url, api(server.url, price={"input": 1.0, "output": 5.0}))
    project.edit(teachers__api__api_key_env="OMNIOPD_TEST_KEY")
    ((row,), total) = estimate(project)
    assert (row["arm"], row["teacher"], row["counted"]) == ("omniopd", "api", "exactly")
    assert (row["seed"], row["round"], row["held"]) == ("0", "1", 0)
    assert server.requests == []

    project.edit(teachers__api__api_key_env=None)
    project.edit(teach__max_usd=total["usd"] + 0.01)  # the check costs less than a cent
    teach(project)
    run = run_json(project)
    assert total["requests"] == len(server.answers) == run["requests"]
    assert total["answers"] - total["held"] == run["bought"]
    assert 0 < run["usd"] <= total["usd"]
    (_, after) = estimate(project)
    assert (after["answers"], after["held"]) == (total["answers"], total["answers"])
    assert (after["requests"], after["usd"], after["hours"]) == (0, 0, 0)

    before = len(server.answers)
    project.edit(teach__samples=5, teach__max_usd=None)
    (_, more) = estimate(project)
    assert more["held"] == after["answers"]
    project.run("omniopd", "plan")
    teach(project)
    assert len(server.answers) - before == more["requests"] == more["answers"] - more["held"]
    assert len(answers(project)) >= more["answers"]  # equal prefixes share theirs


def test_what_arms_share_counts_once_and_every_teacher_has_its_row(ready, server):
    arms = {
        "omniopd": {},
        "shuffled": {"score": {"source": "shuffled"}},
        "fewer": {"teach": {"samples": 2}},
        "both": {"teach": {"teacher": ["api", "other"]}, "prior": {"combine": "mean"}},
    }
    setup(project := ready, server.url)
    project.edit(teachers__other=api(server.url) | {"model": "stub-2"})
    project.edit(experiment__arms=list(arms), arms=arms)
    rows, total = estimate(project)
    shown = [(row["arm"], row["teacher"], row["counted"]) for row in rows]
    assert shown == [
        ("omniopd", "api", "exactly"),
        ("shuffled", "api", "shared with omniopd"),
        ("fewer", "api", "exactly"),
        ("both", "api", "shared with omniopd"),
        ("both", "other", "exactly"),
    ]
    first = rows[0]["answers"]
    assert [row["answers"] for row in rows] == [first, 0, 0, 0, first]  # fewer has no others
    assert total["requests"] == 2 * first
    said = project.run("omniopd", "estimate").stdout
    table = said.splitlines()
    assert table[0].split()[:5] == ["arm", "seed", "round", "teacher", "counted"]
    assert table[2].split()[0] == "all"
    assert "Dollars leave out api and other, of which no price is known: set teachers" in said
    assert server.requests == []


def test_local_teachers_take_no_requests_and_what_ran_is_all_held(small, fresh):
    for project, counted in ((fresh, "at most, from params"), (small, "exactly")):
        rows, total = estimate(project)
        assert rows[0]["counted"] == counted
        assert {row["teacher"] for row in rows} == {"carries"}
        assert (total["requests"], total["usd"], total["hours"]) == (0, 0, 0)
    assert {row["arm"] for row in rows} == {"omniopd", "sft", "shuffled-scores"}
    assert total["held"] == total["answers"] > 0
    assert total["output_tokens"] == 0


def test_samples_between_held_ones_are_counted_as_the_requests_that_they_take(store):
    """n asks for consecutive samples: a gap on both sides of a held one is two requests."""
    with Pure().running() as server:
        run = buying(server.url, store, provider="vllm")
        prompt = {0: run.teacher.prompt(providers.MESSAGES, [], PREFIX)}
        block = [Response("r0", prompt, {0: PREFIX})]
        _, one = next(run.requests(block, [(0, 0, 1)], 0))
        list(run._buy(block, {(0, 0, 1): one}))
        found = costs._counted(run, iter(block), run.teacher.config, "live", {})
        assert (found.answers, found.held, found.requests) == (3, 1, 2)
        before = len(server.requests)
        run.judge(block)
        assert len(server.requests) - before == found.requests


# what providers can do


def rows():
    return [(provider, row) for provider, found in TABLE.items() for row in found]


def test_every_row_says_where_and_when_it_was_read_and_takes_a_mode():
    for _, row in rows():
        re.compile(row.family)
        assert row.modes
        assert row.source
        assert date(2025, 1, 1) < row.read <= date(2027, 12, 31)
        assert row.most >= 1
        assert (row.retires is None) == (row.successor == "")


def test_every_provider_is_ones_own_or_has_terms():
    assert set(TABLE) == OWN | set(TERMS)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "o3-mini"),
        ("openai", "gpt-5-mini"),
        ("openai", "gpt-5.2-pro"),
        ("openai", "gpt-5.3-codex"),
        ("openai", "gpt-5.2-chat-latest"),
        ("anthropic", "opus"),
        ("google", "gemini-2.5-pro"),
        ("google", "gemini-3-pro-preview"),
        ("google", "gemini-3.1-pro-preview"),
        ("deepseek", "deepseek-reasoner"),
    ],
)
def test_a_family_that_is_unknown_or_always_thinks_is_refused_naming_the_file(provider, model):
    with pytest.raises(UserError, match=r"pipeline/teachers/capabilities\.py") as caught:
        capability(provider, model)
    assert model in str(caught.value)


PREFILL = ("prefill", "instruct")
CHAT = ("instruct",)


@pytest.mark.parametrize(
    ("provider", "model", "modes", "hottest"),
    [
        ("anthropic", "claude-3-haiku-20240307", PREFILL, 1.0),
        ("anthropic", "claude-3-5-sonnet-latest", PREFILL, 1.0),
        ("anthropic", "claude-3-7-sonnet-20250219", PREFILL, 1.0),
        ("anthropic", "claude-sonnet-4-20250514", PREFILL, 1.0),
        ("anthropic", "claude-opus-4-0", PREFILL, 1.0),
        ("anthropic", "claude-opus-4-1-20250805", PREFILL, 1.0),
        ("anthropic", "claude-sonnet-4-5", PREFILL, 1.0),
        ("anthropic", "claude-haiku-4-5", PREFILL, 1.0),
        ("anthropic", "claude-haiku-4-5-20251001", PREFILL, 1.0),
        ("anthropic", "claude-opus-4-5-20251101", PREFILL, 1.0),
        ("anthropic", "claude-opus-4-6", CHAT, 1.0),
        ("anthropic", "claude-sonnet-4-6", CHAT, 1.0),
        ("anthropic", "claude-opus-4-7", CHAT, None),
        ("anthropic", "claude-opus-5", CHAT, None),
        ("google", "gemini-2.5-flash", PREFILL, 2.0),
        ("google", "gemini-2.5-flash-lite", CHAT, 2.0),
        ("google", "gemini-3-flash-preview", CHAT, 2.0),
        ("google", "gemini-3.5-flash", PREFILL, 2.0),
        ("google", "gemini-3.5-flash-lite", CHAT, 2.0),
        ("google", "gemini-3.6-flash", CHAT, 2.0),
        ("google", "gemini-3.8-flash", CHAT, 2.0),
        ("openai", "gpt-4o-mini-2024-07-18", CHAT, 2.0),
        ("openai", "gpt-4.1-2025-04-14", CHAT, 2.0),
        ("openai", "gpt-5.1", CHAT, 2.0),
        ("openai", "gpt-5.4-mini", CHAT, 2.0),
    ],
)
def test_a_model_lands_in_the_row_of_its_family(provider, model, modes, hottest):
    found = capability(provider, model)
    assert (found.modes, found.hottest) == (modes, hottest)
    sends_effort = "reasoning_effort" in found.extra
    assert sends_effort == model.startswith("gpt-5")  # older ones refuse it


def test_a_family_that_is_retired_names_day_and_successor():
    found = capability("google", "gemini-2.5-flash")
    assert found.retires == date(2026, 12, 1)
    for name in re.findall(r"gemini-[\w.-]+", found.successor):
        assert capability("google", name).retires is None
    assert "prefill" in capability("google", "gemini-3.5-flash").modes
