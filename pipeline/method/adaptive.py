"""How many answers a fork gets where teach.samples is adaptive: few where the first ones agree.

The first `first` are bought everywhere. A further one is bought as long as the most frequent of a
fork's answers is less than the share `until.agree` of them, up to `most`. Answers agree if their
text and their end are equal, as cut to C student tokens, so n is a function of the table alone.

What stops the buying are the teacher's own answers, never their likeness to the student's chunk; so
n says how sure the teacher is, and k_sem / n is a share of n answers like any other. An extension;
not in arXiv 2606.01476.
"""

from collections import Counter
from collections.abc import Sequence

from pipeline.config.method import Adaptive

Said = tuple[str, bool]  # an answer's text, left-stripped, and whether it ended
ROUNDING = 1e-9


def most(samples: int | Adaptive) -> int:
    """Answers that a fork has at most."""
    return samples.most if isinstance(samples, Adaptive) else samples


def least(samples: int | Adaptive) -> int:
    """Answers that every fork has."""
    return samples.first if isinstance(samples, Adaptive) else samples


def wanted(samples: int | Adaptive, said: Sequence[Said]) -> int:
    """How many answers are wanted where these were given, in the order of samples."""
    if isinstance(samples, int):
        return samples
    given = len(said)
    if given < samples.first:
        return samples.first
    if given >= samples.most:
        return samples.most
    (_, common), *_ = Counter(said).most_common(1)
    return given if common >= samples.until.agree * given - ROUNDING else given + 1
