"""The tokens of a reply, where a server counts them in its own way or not at all."""

import json

import pytest

from pipeline.core.errors import UserError
from pipeline.teachers import replies
from pipeline.teachers.wire import calls, counting
from tests.habits import MESSAGES, PRICE, judged, whole
from tests.servers import Pure, PureHandler

pytestmark = pytest.mark.usefixtures("quick")


ABSENT = {
    "missing": whole(usage=...),
    "null": whole(usage=None),
    "empty": whole(usage={}),
    "a text": whole(usage="12 tokens"),
    "zero": whole(usage={"prompt_tokens": 0, "completion_tokens": 0}),
    "negative": whole(usage={"prompt_tokens": -7, "completion_tokens": -5}),
    "huge": whole(usage={"prompt_tokens": 10**20, "completion_tokens": 10**400}),
    "words": whole(usage={"prompt_tokens": "many", "completion_tokens": None}),
    "not numbers": whole(usage={"prompt_tokens": "nan", "completion_tokens": "inf"}),
    "true": whole(usage={"prompt_tokens": True, "completion_tokens": True}),
}


@pytest.mark.parametrize("habit", list(ABSENT))
def test_usage_that_cannot_be_true_is_counted_instead_and_told_once(habit, store, caplog):
    with Pure(change=ABSENT[habit]).running() as server:
        found, run = judged(server.url, store, price=PRICE)
    assert [judgment.completion_tokens for judgment in found] == [12, 12]  # both were cut there
    prompt = run.teacher.prompt(MESSAGES, [], "8+5=")
    assert {judgment.prompt_tokens for judgment in found} == {-(-len(prompt) // 3)}
    assert store.spent().usd == run.ledger.usd == 2 * (12 - (-len(prompt) // 3))
    assert caplog.text.count("its usage says no prompt_tokens and no completion_tokens") == 1


@pytest.mark.parametrize("habit", list(ABSENT))
def test_the_budget_holds_without_usage(habit, store):
    with (
        Pure(change=ABSENT[habit]).running() as server,
        pytest.raises(UserError, match=r"stopped by the budget"),
    ):
        judged(server.url, store, samples=20, max_usd=200.0, price=PRICE)
    assert 0 < store.spent().usd <= 200


@pytest.mark.parametrize(
    ("value", "count"), [(12, 12), ("12", 12), (12.0, 12), (0, 0), (1e7, 10**7)]
)
def test_numbers_of_tokens_are_read(value, count):
    assert replies.count(value) == count


def reply(said, *choices, prompt=7):
    """A reply of (text, ended) choices whose usage says so many tokens."""
    found = [calls.Choice(i, text, ended) for i, (text, ended) in enumerate(choices)]
    return calls.Reply(found, "stub-1", prompt, said)


def nothing(text):
    return None


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (15, [5, 5, 5], [5, 5, 5]),
        (10, [1, 1, 1], [4, 3, 3]),
        (4, [0, 0, 100], [1, 1, 2]),
        (3, [0, 0, 0], [1, 1, 1]),
        (2, [7, 1, 1], [2, 0, 0]),
        (0, [3, 4], [0, 0]),
    ],
)
def test_shares_are_whole_and_add_up(total, weights, parts):
    found = counting.shares(total, weights)
    assert (found, sum(found)) == (parts, total)


def test_usage_of_one_choice_alone_is_made_whole():
    """40 reported of 123: three cut at the limit, one that ended after two tokens and its end."""
    cut = [("x" * 90, False)] * 2
    found = counting.counted(reply(40, *cut, ("a b", True), cut[0]), 0, 40, True, nothing)
    assert found.choices == [40, 40, 2, 40]  # estimated where nothing can count
    words = counting.counted(
        reply(40, *cut, ("a b", True), cut[0]), 0, 40, True, lambda text: len(text.split())
    )
    assert (words.choices, words.completion) == ([40, 40, 3, 40], 123)
    first = counting.counted(
        reply(3, ("a b", True), *cut), 0, 40, True, lambda text: len(text.split())
    )
    assert (first.choices, first.completion) == ([3, 40, 40], 83)
    full = counting.counted(reply(9, *cut), 0, 40, True, nothing)  # the context was full
    assert full.choices == [9, 9]


@pytest.mark.parametrize(
    ("said", "texts", "count", "total"),
    [
        (24, ["x" * 96] * 4, nothing, 96),  # 16 characters a token: that is of one choice
        (24, ["x" * 24] * 4, len, 96),  # a character is a token, as the tokenizer says
        (80, ["x" * 24] * 4, len, 80),  # it could have made more of the text than was sampled
        (90, ["x" * 96] * 4, nothing, 90),
        (13, ["x" * 96] * 1, nothing, 13),  # one choice: whatever it says
    ],
)
def test_usage_with_less_than_the_choices_hold_is_noticed(said, texts, count, total):
    found = counting.counted(reply(said, *((t, False) for t in texts)), 0, 24, False, count)
    assert (found.completion, bool(found.doubt)) == (total, total != said)
    assert sum(found.choices) == total


class LlamaHandler(PureHandler):
    """Usage of choice 0 alone, a character a token, and /tokenize."""

    def do_POST(self):
        if not self.path.endswith("/tokenize"):
            super().do_POST()
            return
        request = json.loads(self.body())
        self.server.tokenized.append(request["content"])
        status = self.server.status
        self.reply(
            status, {"tokens": list(range(len(request["content"])))} if status == 200 else {}
        )


class Llama(Pure):
    def __init__(self, status=200):
        super().__init__(change=self.own)
        self.RequestHandlerClass, self.tokenized, self.status = LlamaHandler, [], status

    def own(self, request, reply):
        for choice in reply["choices"]:
            length = 3 * choice["index"]
            if length:  # the first is cut, the others end early
                text = choice["message"]["content"][:length]
                choice |= {"finish_reason": "stop"}
                choice["message"]["content"] = request["messages"][-1]["content"] + text
        reply["usage"]["completion_tokens"] = request["max_tokens"]
        return reply


def test_the_servers_own_tokenize_counts_where_no_tokenizer_is_named(store, caplog):
    with Llama().running() as server:
        found, run = judged(server.url, store, samples=4, provider="llama.cpp", price=PRICE)
    assert [judgment.completion_tokens for judgment in found] == [12, 4, 7, 10]
    assert [len(text) for text in server.tokenized] == [3, 6, 9]  # without what was prefilled
    assert run.ledger.tokens_billed == 7 + 33
    assert store.spent().usd == run.ledger.usd == 40
    assert caplog.text == ""


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_that_cannot_count_is_refused_with_what_helps(status, store):
    with (
        Llama(status).running() as server,
        pytest.raises(UserError, match=rf"HTTP {status}"),
    ):
        judged(server.url, store, samples=4, provider="llama.cpp")
    assert len(server.requests) == 1
    with Llama(status).running() as server:
        found, _ = judged(server.url, store, 4, provider="llama.cpp", samples_per_request=1)
    assert [judgment.completion_tokens for judgment in found] == [12] * 4
