"""Makes the files of this folder; they were made once, with the code of commit c4dbe4f.

    PYTHONPATH=FOLDER_WITH_THAT_CODE python tests/judgments/version2/make.py

judgments.sqlite.xz  a store of version 2: prefixes with several samples, attempts, limits and
                     checksums of both kinds, a ledger of two projects, a claim, a batch, a check
spool.jsonl          what a process of that release could not store
answers.parquet      that release's export of the store
expected.json        the answers, as that release reads them, what each project spent, the keys of
                     the batch and of the claim
"""

import json
import lzma
import sqlite3
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.judgments import archive, sums
from pipeline.judgments.keys import Request, seed_for
from pipeline.judgments.ledger import Entry
from pipeline.judgments.schema import Judgment, request_columns, stored
from pipeline.judgments.store import Batch, Store

CLAIMED = "f" * 64
HERE = Path(__file__).parent
ODD = [
    "\x00",
    "a\x00\\0\\\\\x00b",
    "\\frac{1}{2}",
    "naïve 日本",
    "\U0001f9ee\u200d\ufeff",
    "\r\n\t\x1b[0m",
    "",
]
SAMPLER = {"temperature": 1, "top_p": 0.95, "top_k": 20}


def one(request, limit=8, **changes):
    found = Judgment(
        **request_columns(request),
        token_limit=limit,
        text=f"{request.sample}+5={request.sample + 5}, " * 9,
        token_ids=tuple(range(request.sample, 150_000, 9_999)),
        ended=False,
        finish_reason="length",
        model_returned="m1-2026",
        prompt_tokens=10,
        completion_tokens=16,
        failure=None,
        requested_n=4,
        seed_sent=request.seed,
        usd=0.1 + 0.2,
        created_at=1e9 / 3 + request.sample,
    )
    return replace(found, **changes)


def answers():
    for number in range(6):
        prompt = (1, 2, number)
        for sample in range(4):
            request = Request(
                "vllm", "m1", prompt, "completions", SAMPLER, sample, seed_for(prompt, sample)
            )
            yield one(request)
            if number == 1:
                yield one(request, 50, text="longer " * 40)
            if number == 2:
                again = replace(request, attempt=1, seed=seed_for(prompt, sample, 1))
                yield one(again, failure="refusal")
    for number, text in enumerate(ODD):
        request = Request(
            "anthropic", "claude", f"p{number}", "instruct", {}, number, None, epoch=1
        )
        yield one(
            request, text=text, token_ids=None, seed_sent=None, ended=True, finish_reason="stop"
        )
    request = Request("google", "g", "p", "prefill", {"stop": ["\n"]}, 0, 7)
    yield one(request, token_ids=())
    yield one(replace(request, sample=9, seed=2), token_ids=(2**31 - 1, 5))  # seeds of no row


def main() -> None:
    file = HERE / "judgments.sqlite"
    everything = list(answers())
    with Store(f"sqlite:///{file}", "mine", HERE / ".spool") as store:
        for first in range(0, len(everything), 7):
            some = everything[first : first + 7]
            store.add(some, Entry(bought=len(some), requests=2, tokens=99, usd=0.1))
        store.enter(Entry(reused=5, misses=3))
        store.keep_batch("anthropic claude", Batch("b1", (everything[0].key, everything[5].key)))
        store.passed("a teacher")
        old = everything[1]  # with a checksum of before version 2, and a sampler that has blanks
        blank = json.dumps(json.loads(old.sampler))
        with closing(sqlite3.connect(file)) as raw, raw:
            change = (
                "update judgments set checksum = ?, sampler = ? where key = ? and token_limit = ?"
            )
            sum_ = sums.earlier(stored(replace(old, sampler=blank)))
            assert raw.execute(change, (sum_, blank, old.key, old.token_limit)).rowcount == 1
        archive.export(store, HERE / "answers.parquet")

        def away(kept, **_):
            raise UserError("the store is away.")

        store._store = away
        late = Request("vllm", "m1", (7, 7), "completions", SAMPLER, 0, 3)
        try:
            store.add([one(late)], Entry(bought=1, requests=1, tokens=9, usd=0.5))
        except UserError:
            (kept,) = (HERE / ".spool").iterdir()
    kept.rename(HERE / "spool.jsonl")
    kept.parent.rmdir()
    with Store(f"sqlite:///{file}", "theirs") as store:
        store.enter(Entry(requests=7, usd=1.0))
        store.claims.claim([CLAIMED], 8, lease=3e9)
        rows = [asdict(found) for chunk in store.stream() for found, _ in chunk]
    spent = {}
    for project in ("mine", "theirs"):
        with Store(f"sqlite:///{file}", project) as store:
            spent[project] = asdict(store.spent())
    batch = [everything[0].key, everything[5].key]
    expected = {"answers": rows, "spent": spent, "batch": batch, "claimed": CLAIMED}
    (HERE / "expected.json").write_text(json.dumps(expected) + "\n")
    with closing(sqlite3.connect(file)) as raw:
        raw.execute("pragma journal_mode = delete")
        raw.execute("vacuum")
    file.with_suffix(".sqlite.xz").write_bytes(lzma.compress(file.read_bytes()))
    file.unlink()


if __name__ == "__main__":
    main()
