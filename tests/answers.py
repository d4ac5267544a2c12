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


def answer(key, limit=8, **changes):
    """An answer under any key; `verify` and `import` refuse it."""
    found = Judgment(
        key=key,
        token_limit=limit,
        prompt="p" * 64,
        continuation="completions",
        sampler="{}",
        sample=3,
        seed=2**31 - 1,
        attempt=0,
        epoch=0,
        text="8+5=13,",
        token_ids=(4, 5, 6),
        ended=False,
        finish_reason="length",
        model_returned="m1",
        prompt_tokens=10,
        completion_tokens=3,
        failure=None,
        provider="local",
        model="m1",
        requested_n=1,
        seed_sent=2**31 - 1,
        created_at=1.5,
    )
    return replace(found, **changes)


def sound(sample, provider="local", **changes):
    """An answer under the key of its request."""
    columns = request_columns(replace(REQUEST, sample=sample, provider=provider))
    return answer(**columns, **changes)
