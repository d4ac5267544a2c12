"""Calibration: measures on answers already bought how much they can tell the student.

Quantities of schemas.CALIBRATION. Similarity is that of the student's chunk with a continuation;
both are cut to `chunk_tokens` student tokens. n counts forks unless it says otherwise.

    own                     with the fork's own continuations: k_sem / N
    floor/other-problem     with continuations from a fork of another problem
    floor/other-fork        with continuations from another fork of the same response
    ceiling/teacher         of two of the teacher's continuations at one fork
    ceiling/student         of the chunks that two of the student's samples wrote in one state
    contrast/other-problem  own minus that floor, fork by fork
    contrast/other-fork     own minus the floor that matters: a metric that cannot tell a fork
                            from another one scores the topic
    contrast/within-state   difference of k_sem / N of two different chunks in one state, absolute,
                            mean over pairs; n counts states. Each score is a mean of N noisy
                            samples, so this is above 0 where no chunk is better than another:
                            its size and interval are no evidence of a contrast
    auroc/other-problem     chance that a similarity at the own fork exceeds one at the other
    auroc/other-fork        fork or problem, a tie counting half
    reliability             of k_sem: correlation over forks of the sums over random halves of the
                            N samples, corrected by Spearman-Brown, mean over splits
    variance/within         of one similarity at a fork, mean over forks
    variance/between        of the share k_sem / N that a fork would have with endless answers: of
                            the forks' shares, less within / N; 0 where that is negative
    recommended             the fewest answers a fork whose mean has this reliability:
                            between / (between + within / N) at least 0.8; the note says it
    posterior-sd            mean sd of pi_hat;                        bin is alpha
    shrinkage               alpha / (N + alpha);                      bin is alpha
    move                    mean |pi_hat - k_sem / N|;                bin is alpha
    profile/position        own in a tenth of the response;           bin is its left edge
    profile/entropy         own in a fifth of the forks by entropy;   bin is its mean, nats
    correct/response        AUROC of a response's mean k_sem / N for being correct; n: responses
    correct/fork            AUROC of a fork's k_sem / N for its response being correct
    correct/within-prompt   the same as the first among responses to one prompt; n: pairs
    unseen                  share of chunks and continuations that the metric does not see all of,
                            of metrics that can be blind; n: texts. The note warns where it is not 0
    warning                 the contrast again, where it is flat; the note is a sentence

Without a metric, at the length of the whole chunk:

    forks/alone             share of responses with a single fork, which other-fork leaves out
    forks/starts-on-mark    share of forks whose first token has neither letter nor digit: white
                            space, punctuation or an end
    forks/mark-tokens       share of the chunks' tokens that are such
    forks/covered           share of the responses' tokens that lie in chunks; n: responses
    overlap/starts          of the forks of this scheduler: share of starts that another would take
    overlap/tokens          and of covered tokens that it would cover; the note names both

A **state** is a prompt with the tokens of a response before a fork: other samples of that prompt
that begin with the same tokens were written in the same state. Where none does, there is no value.
"""

from typing import Any, NamedTuple

FLAT = 0.03  # contrast below which a metric can hardly teach
Row = dict[str, Any]  # of schemas.CALIBRATION


class Text(NamedTuple):
    text: str
    ended: bool  # the end of the response lies within
    ids: tuple[int, ...] = ()  # the student's, without an end


class Interval(NamedTuple):
    """A value with its bounds; no value where it cannot be told."""

    value: float | None
    low: float | None = None
    high: float | None = None


def warns(found: Row) -> bool:
    """Whether the row's note is a warning to the user."""
    return found["quantity"] in ("warning", "unseen") and bool(found.get("note"))


def row(
    metric: str | None,
    tokens: int,
    quantity: str,
    found: Interval,
    n: int,
    bin: float | None = None,
    note: str | None = None,
) -> Row:
    return {
        "metric": metric,
        "chunk_tokens": tokens,
        "quantity": quantity,
        "bin": bin,
        **found._asdict(),
        "n": n,
        "note": note,
    }
