"""Answers to put into a judgment store."""

from dataclasses import replace

from pipeline.judgments.keys import Request
from pipeline.judgments.schema import Judgment, request_columns

REQUEST = Request(
    provider="local",
    model="m1",
    prompt=(1, 2, 3),
    continuation="completions",
    sampler={"temperature": 1.0, "top_p": 1.0},
    sample=0,
    seed=7,
)


def asked(name):
    """A request by a name: its prompt."""
    return replace(REQUEST, prompt=name, sampler={}, sample=3, seed=2**31 - 1)


def all_asked(names):
    return [asked(name) for name in names]


def key(name):
    return asked(name).key


def named(keys, names):
    """The names, of those given, whose keys these are, in their order."""
    known = {key(name): name for name in names}
    return [known[found] for found in keys]


def answered(store, names, limit=8):
    """Names of those that a look-up finds."""
    names = list(names)
    return named((found.key for found in store.find(all_asked(names), limit)), names)


def claimed(store, names, limit=8, **more):
    """Names of those that a claim gets."""
    return set(named(store.claims.claim(all_asked(names), limit, **more), names))


def renewed(store, names):
    return set(named(store.claims.renew(map(key, names)), names))


def _answer(columns, limit, changes):
    found = Judgment(
        **columns,
        token_limit=limit,
        text="8+5=13,",
        token_ids=(4, 5, 6),
        ended=False,
        finish_reason="length",
        model_returned="m1",
        prompt_tokens=10,
        completion_tokens=3,
        failure=None,
        requested_n=1,
        seed_sent=2**31 - 1,
        usd=0.0,
        created_at=1.5,
    )
    return found._replace(**changes)


def answer(name, limit=8, **changes):
    """An answer to the request of this name."""
    return _answer(request_columns(asked(name)), limit, changes)


def sound(sample, provider="local", limit=8, **changes):
    """One of several answers to one prompt."""
    columns = request_columns(wanted(sample, provider))
    return _answer(columns, limit, changes)


def wanted(sample, provider="local"):
    """The request of such an answer."""
    return replace(REQUEST, sample=sample, provider=provider)
