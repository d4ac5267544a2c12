"""Batch services of three providers: bought at half the price, taken up again after a kill."""

import subprocess
import sys
import time

import pytest

from pipeline.config.teachers import Price
from pipeline.core.errors import UserError
from pipeline.judgments.claims.held import Held
from pipeline.judgments.schema import CLAIMS
from pipeline.judgments.store import Batch, Store
from pipeline.teachers import batches
from tests.project import ROOT
from tests.providers import MODELS, Batches, Scripted, ask, judging, response

pytestmark = [
    pytest.mark.usefixtures("quick"),
    pytest.mark.parametrize("provider", list(MODELS)),
]
PREFIXES = ("8+5=", "8+5=13", "8+5=13,7")
PRICE = Price(input=10.0, output=100.0)


def batch(provider, url, store, tmp_path, **more):
    return judging(provider, url, store, tmp_path, transport="batch", price=PRICE, **more)


def test_results_out_of_order_go_where_they_belong_at_half_the_price(provider, store, tmp_path):
    with Batches(provider).running() as server:
        run = batch(provider, server.url, store, tmp_path, samples=2)
        found = ask(run, PREFIXES)
    (sent,) = server.batches
    assert len(found) == 6
    for judgment in found.values():
        first = judgment.key if provider == "anthropic" else found_first(found, judgment)
        assert judgment.text.startswith(f"13, {first[:8]}.")
        assert first in sent
    assert len({judgment.text for judgment in found.values()}) == 6
    assert "Be brief." in str(sent)
    requests = 6 if provider == "anthropic" else 3
    assert len(sent) == run.ledger.requests == requests
    assert run.ledger.usd == pytest.approx(requests * 20 * 5e-6 + 6 * 3 * 50e-6)
    assert store.spent().usd == pytest.approx(run.ledger.usd)


def found_first(found, judgment):
    """Key of sample 0 at the judgment's prefix: the first of its request."""
    return next(j.key for (_, s), j in found.items() if s == 0 and j.prompt == judgment.prompt)


def test_what_another_process_has_taken_is_handed_in_by_that_one(
    provider, store, tmp_path, monkeypatch
):
    def taken(self, keys):
        lost = set(sorted(keys)[:1]) if not self.lost else set()
        self.lost |= lost
        if lost:
            store.add([judgment for judgment in known if judgment.key in lost])
        return set(keys) - lost

    with Batches(provider).running() as server:
        with Store(f"sqlite:///{tmp_path / 'other.sqlite'}", "other") as other:
            there = tmp_path / "there"
            there.mkdir()
            known = list(ask(batch(provider, server.url, other, there), PREFIXES).values())
        monkeypatch.setattr(Held, "still", taken)
        run = batch(provider, server.url, store, tmp_path)
        found = ask(run, PREFIXES)
    assert {j.key for j in found.values()} == {j.key for j in known}
    first, second = server.batches
    assert len(second) == len(first) - 1 == run.ledger.bought


@pytest.mark.parametrize("outcome", ["expired", "busy"])
def test_what_expired_or_failed_is_sent_again_and_nothing_else(provider, outcome, store, tmp_path):
    def first_two(number, index):
        return outcome if number == 0 and index < 2 else "ok"

    with Batches(provider, outcome=first_two).running() as server:
        run = batch(provider, server.url, store, tmp_path)
        assert len(ask(run, PREFIXES)) == 3
    one, two = server.batches
    assert list(two) == list(one)[:2]
    assert run.ledger.requests == 5
    with Store(store_url(tmp_path)) as reopened:
        assert reopened.stats().answers == 3


def test_a_refused_request_stops_with_its_reason_and_the_rest_is_kept(provider, store, tmp_path):
    with Batches(provider, outcome=lambda _, i: "refused" if i == 0 else "ok").running() as server:
        with pytest.raises(UserError, match="refused it is"):
            ask(batch(provider, server.url, store, tmp_path), PREFIXES)
        assert store.stats().answers == 2
        server.outcome = lambda number, index: "ok"
        ask(batch(provider, server.url, store, tmp_path), PREFIXES)
    assert [len(sent) for sent in server.batches] == [3, 1]


def test_a_batch_that_always_fails_ends(provider, store, tmp_path):
    with (
        Batches(provider, outcome=lambda *_: "busy").running() as server,
        pytest.raises(UserError, match=r"1 requests failed in 4 batches, last: .*busy it is"),
    ):
        ask(batch(provider, server.url, store, tmp_path))
    assert len(server.batches) == 4
    assert store.spent().requests == 4  # they count as sent, in later runs too


KILLED = """
import sys
from pathlib import Path
from pipeline.judgments.claims.held import Held
from pipeline.judgments.schema import CLAIMS
from pipeline.judgments.store import Store
from pipeline.teachers import batches
from tests.providers import ask
from tests.teachers.test_batches import PREFIXES, batch
batches.POLL_SECONDS = 0.01
provider, url, folder, store = sys.argv[1:]
with Store(store, "project") as store:
    ask(batch(provider, url, store, Path(folder)), PREFIXES)
"""


def store_url(tmp_path):
    return f"sqlite:///{tmp_path / 'judgments.sqlite'}"


def test_a_killed_run_takes_its_batch_up_again(provider, store, tmp_path):
    with Batches(provider, polls=10**9).running() as server:
        words = [provider, server.url, str(tmp_path), store_url(tmp_path)]
        process = subprocess.Popen([sys.executable, "-c", KILLED, *words], cwd=ROOT)
        while server.looks[0] < 3 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert store.stats().answers == 0
        server.polls = 0
        with store.database.writing() as connection:
            connection.execute(CLAIMS.update().values(expires_at=0.0))  # instead of waiting
        found = ask(batch(provider, server.url, store, tmp_path), PREFIXES)
    assert len(found) == 3
    assert len(server.batches) == 1
    assert store.spent().bought == 3


def test_the_budget_sends_what_it_allows_and_goes_on_from_there(provider, store, tmp_path):
    with Batches(provider).running() as server:
        run = batch(provider, server.url, store, tmp_path)
        run.budget.max_requests = 2
        with pytest.raises(UserError, match=r"teach\.max_requests is 2"):
            ask(run, PREFIXES)
        assert store.stats().answers == 2
        assert len(ask(batch(provider, server.url, store, tmp_path), PREFIXES)) == 3
    assert [len(sent) for sent in server.batches] == [2, 1]


def test_a_batch_whose_handing_in_broke_off_is_not_sent_twice(provider, store, tmp_path):
    with Batches(provider).running() as server:
        server.cut["POST"] = 1
        with pytest.raises(UserError, match="Look in the provider's console"):
            ask(batch(provider, server.url, store, tmp_path), PREFIXES)
    assert len(server.batches) == 1


def test_a_look_that_breaks_off_is_repeated(provider, store, tmp_path):
    with Batches(provider).running() as server:
        server.cut["GET"] = 2
        assert len(ask(batch(provider, server.url, store, tmp_path), PREFIXES)) == 3
    assert len(server.batches) == 1


def test_a_cancelled_batch_is_not_sent_again_by_itself(provider, store, tmp_path):
    with Batches(provider, outcome=lambda *_: "cancelled").running() as server:
        with pytest.raises(UserError, match="cancelled"):
            ask(batch(provider, server.url, store, tmp_path), PREFIXES)
        assert len(server.batches) == 1
        server.outcome = lambda *_: "ok"
        assert len(ask(batch(provider, server.url, store, tmp_path), PREFIXES)) == 3
    assert len(server.batches) == 2


def test_what_an_open_batch_holds_is_not_bought_live(provider, store, tmp_path):
    with Scripted(provider).running() as server:
        run = judging(provider, server.url, store, tmp_path)
        block = [response(run, PREFIXES)]
        requests = dict(run.requests(block, [(0, 1, 0)], 0))
        key = requests[0, 1, 0].key
        store.keep_batch(run.teacher.batches(run.wanted.limit), Batch("batch-9", (key,)))
        with pytest.raises(UserError, match="1 of these requests are in batch batch-9"):
            run.judge(block)
    assert server.requests == []


def test_a_batch_is_split_by_the_size_of_its_prompts(provider, store, tmp_path):
    with Batches(provider, polls=1).running() as server:
        run = batch(provider, server.url, store, tmp_path)
        run.teacher.adapter.batch_bytes = 2000
        assert len(ask(run, PREFIXES)) == 3
    assert len(server.batches) > 1


def test_the_transport_is_no_part_of_the_key(provider, store, tmp_path):
    with Scripted(provider).running() as server:
        live = ask(judging(provider, server.url, store, tmp_path), PREFIXES)
    with Batches(provider).running() as server:
        assert ask(batch(provider, server.url, store, tmp_path), PREFIXES) == live
    assert server.batches == []


def test_a_batch_that_the_provider_lost_is_sent_again_and_one_that_is_barred_is_kept(
    provider, store, tmp_path
):
    with Batches(provider).running() as server:
        server.barred = 403
        with pytest.raises(UserError, match="HTTP 403"):
            ask(batch(provider, server.url, store, tmp_path))
        server.barred = 404
        assert len(ask(batch(provider, server.url, store, tmp_path))) == 1
    assert len(server.batches) == 2  # the second for the one that answered 404


def test_a_large_order_is_split_and_all_parts_run_at_once(provider, store, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "MOST", 2)
    with Batches(provider, polls=1).running() as server:
        assert len(ask(batch(provider, server.url, store, tmp_path), PREFIXES)) == 3
    assert [len(sent) for sent in server.batches] == [2, 1]
