"""repair: likelihood of responses in which the teacher wrote a stretch where it disagreed.

    sum over responses of sum over their tokens of -log pi_theta(y)

A response is the student's own up to the first fork at which the teacher's answer differs from its
chunk, then the teacher's answer, at most C tokens, then the student's again
(pipeline/engines/repaired_rollouts.py). Responses that the teacher agreed with stay as they are.

source  Relay-OPD (arXiv 2607.26057), known by a description alone: neither abstract nor text
        could be read. So these are ours: one stretch a response, of a chunk's length, at the
        first fork where the one answer differs in text or end; all tokens weigh alike; no response
        is left out, whether a checker would accept it or not; no anchor.
"""

from typing import Any

from pipeline.config.params import Params
from pipeline.core.errors import refuse
from pipeline.method.objectives import Evidence, Objective, Parts, Slice, Terms
from pipeline.method.objectives.weighted import nll, whole_response

OBJECTIVE = Objective(("repaired", "answers"), checked=True, group="train-repair")


def check(where: str, arm: Any) -> None:
    for key, found, wanted, why in (
        ("teach.samples", arm.teach.samples, 1, "One answer is written into a response."),
        ("rollout.engine", arm.rollout.engine, "hf", "The student goes on with transformers."),
    ):
        if found != wanted:
            shown = found if isinstance(found, int | str) else "a rule"
            refuse(f"{where}{key}", shown, f"{wanted} with train.objective repair", why)


def parts(evidence: Evidence, own: Params) -> Parts:
    for (rollouts,) in evidence.beside():
        yield [whole_response(row, 1.0) for row in rollouts.to_pylist()], 0


def terms(piece: Slice, own: Params) -> Terms:
    """No correction: not all of these tokens are the student's."""
    signal_T = nll(piece, correct=False)
    return Terms(signal_T, signal_T * 0)
