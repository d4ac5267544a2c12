"""Where the forks lie, whatever the metric: format tokens, coverage, other schedulers' choice."""

from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer

from pipeline.calibration import Row, row
from pipeline.calibration.problems import Problems
from pipeline.calibration.sample import Response
from pipeline.core import seeds
from pipeline.data.text import decode, starts
from pipeline.method import schedulers
from pipeline.method.schedulers import peak_entropy, uniform

MODEL_FREE = {  # schedulers that need no more than the rollouts
    "peak-entropy": peak_entropy.positions,
    "uniform": uniform.positions,
}
UNKNOWN = "�"  # a part of a character: no mark


def rows(
    responses: list[Response],
    problems: Problems,
    tokenizer: Tokenizer,
    chunk: int,
    most: int,
    scheduler: str,
    seed: int,
    round_: int,
) -> Iterator[Row]:
    """Rows without a metric, at the length of the whole chunk."""
    problem_B = problems.of([r.problem for r in responses])
    starts = [[fork.position for fork in r.forks] for r in responses]
    forks = sum(map(len, starts))

    def ratio(quantity: str, above: list[int], below: list[int], n: int, note: str = "") -> Row:
        sums = (np.bincount(problem_B, counts, len(problems.index)) for counts in (above, below))
        return row(None, chunk, quantity, problems.ratio(*sums), n, note=note or None)

    ones = [1] * len(responses)
    yield ratio("forks/alone", [len(s) == 1 for s in starts], ones, len(responses))
    marks = [marked(r, tokenizer) for r in responses]
    first = [int(m[s].sum()) for m, s in zip(marks, starts, strict=True)]
    yield ratio("forks/starts-on-mark", first, [len(s) for s in starts], forks)
    within = [covered(len(r.token_ids), s, chunk) for r, s in zip(responses, starts, strict=True)]
    inside = [int((m & w).sum()) for m, w in zip(marks, within, strict=True)]
    sizes = [int(w.sum()) for w in within]
    yield ratio("forks/mark-tokens", inside, sizes, forks)
    yield ratio("forks/covered", sizes, [len(m) for m in marks], len(responses))
    for other in MODEL_FREE:
        if other == scheduler:
            continue
        theirs = [_positions(other, r, tokenizer, chunk, most, seed, round_) for r in responses]
        note = f"{scheduler} with {other}"
        equal = [len(set(s) & set(t)) for s, t in zip(starts, theirs, strict=True)]
        yield ratio("overlap/starts", equal, [len(s) for s in starts], forks, note)
        both = [
            int((w & covered(len(w), t, chunk)).sum()) for w, t in zip(within, theirs, strict=True)
        ]
        yield ratio("overlap/tokens", both, sizes, forks, note)


def marked(response: Response, tokenizer: Tokenizer) -> np.ndarray:
    """Whether each token's text has neither letter nor digit: white space, punctuation or an
    end, (T,)."""
    texts = [tokenizer.decode([token], skip_special_tokens=True) for token in response.token_ids]
    return np.array([not any(c.isalnum() or c == UNKNOWN for c in text) for text in texts])


def covered(total: int, starts: list[int], chunk: int) -> np.ndarray:
    """Whether each of `total` tokens lies in a chunk, (T,)."""
    found = np.zeros(total, bool)
    for start in starts:
        found[start : start + chunk] = True
    return found


def _positions(
    scheduler: str,
    response: Response,
    tokenizer: Tokenizer,
    chunk: int,
    most: int,
    seed: int,
    round_: int,
) -> list[int]:
    """The positions that another scheduler takes of the response, with the draws of stage forks."""

    def eligible(start: int) -> bool:
        return starts(response.text, decode(tokenizer, response.token_ids[:start]))

    draw = seeds.generator(seed, "forks", round_, response.id)
    asked = schedulers.Response(response.entropies, most, chunk, eligible, draw)
    return MODEL_FREE[scheduler](asked)
