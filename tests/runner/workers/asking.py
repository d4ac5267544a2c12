"""A cell that asks the team's store for answers and buys those that are not there, one after
another over some seconds: `python -m tests.runner.workers.asking CELL SECONDS`. It prints them.

The first line of params.yaml says what is asked, so that another one asks anew.
"""

import os
import sys
import time
from pathlib import Path

from pipeline.judgments.keys import Request
from pipeline.judgments.schema import Judgment, request_columns
from pipeline.judgments.store import Entry, Store

ANSWERS, LIMIT = 20, 8  # of a cell; tokens of each
PAID = Entry(bought=1, requests=1, tokens=LIMIT, usd=0.001)


def answer(request: Request, text: str) -> Judgment:
    return Judgment(
        **request_columns(request),
        token_limit=LIMIT,
        text=text,
        token_ids=None,
        ended=True,
        finish_reason="stop",
        model_returned="m",
        prompt_tokens=1,
        completion_tokens=1,
        failure=None,
        requested_n=1,
        seed_sent=request.seed,
        usd=PAID.usd,
        created_at=time.time(),
    )


def main(cell: str, seconds: float) -> None:
    asked = Path("params.yaml").read_text().splitlines()[0]
    wanted = [
        Request("vllm", "m", f"{asked} {cell} {n}", "completions", {}, 0, n) for n in range(ANSWERS)
    ]
    with Store(os.environ["JUDGMENTS_URL"], "team", reached=True) as store:
        for one in wanted:
            if not [*store.find([one], LIMIT)]:
                store.add([answer(one, f"to {one.prompt}")], PAID)
            time.sleep(seconds / ANSWERS)
        found = [one.text for one in store.find(wanted, LIMIT)]
    assert len(found) == ANSWERS
    sys.stdout.write("\n".join(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
