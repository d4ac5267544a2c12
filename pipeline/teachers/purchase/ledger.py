"""Counts of a stage's answers: those it used, those it bought, and those it would buy alone."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from math import ceil

from pipeline.core.errors import UserError
from pipeline.judgments.schema import Judgment
from pipeline.teachers.protocol import Answered

LEAST_DRAWS = 50  # before a failure rate is believed while answers still come in
log = logging.getLogger("omniopd")


@dataclass
class Ledger:
    """Counts of a stage's answers and of those bought now. Failed draws count as bought."""

    answers: int = 0
    bought: int = 0
    draws: int = 0
    requests: int = 0  # sent, retries included
    tokens_bought: int = 0  # completion tokens
    tokens_billed: int = 0  # prompt and completion
    usd: float = 0.0
    prompt_tokens_alone: int = 0  # what these draws would have taken from an empty store
    tokens_alone: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # by reason
    fingerprints: Counter[str] = field(default_factory=Counter)  # of systems: answers bought

    def served(self, answered: Answered) -> None:
        """Count which system answered; the first change within a run is warned of."""
        before = len(self.fingerprints)
        found = (one.fingerprint for one in answered.continuations.values())
        self.fingerprints.update(name for name in found if name)
        if before == 1 and len(self.fingerprints) > 1:
            log.warning(
                f"teach: the system_fingerprint changed from {' to '.join(self.fingerprints)}: "
                "another build of the model answers now. run.json counts them."
            )

    def alone(self, drawn: dict[tuple[int, int], list[Judgment]], limit: int) -> None:
        """Add what the draws at each place would take if the store were empty.

        A prompt counts once for each request, with as many choices as the request had that
        brought the answer; an answer counts up to the limit asked for.
        """
        for judgments in drawn.values():
            requests = ceil(sum(1 / j.requested_n for j in judgments) - 1e-9)
            self.prompt_tokens_alone += requests * max(j.prompt_tokens for j in judgments)
            self.tokens_alone += sum(min(j.completion_tokens, limit) for j in judgments)

    def check(self, allowed: float, least: int = 1) -> None:
        """Raise UserError when more than the allowed share of draws has failed."""
        failed = self.failures.total()
        if self.draws >= least and failed > allowed * self.draws:
            raise UserError(
                f"teach: {failed} of {self.draws} draws failed ({dict(self.failures)}), more than "
                f"teach.max_failure_rate = {allowed}. They are in the store with their reasons. "
                "Run `omniopd teacher check`, use another continuation mode or teacher, or allow "
                "more failures."
            )
