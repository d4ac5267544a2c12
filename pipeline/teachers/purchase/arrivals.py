"""Replies that arrived: held against what was asked, paid for, and handed to the store."""

import logging
import time
from dataclasses import dataclass

from pipeline.core.errors import UserError
from pipeline.engines.asks import Ask
from pipeline.judgments.keys import Request
from pipeline.judgments.ledger import Entry
from pipeline.judgments.schema import Judgment, request_columns
from pipeline.teachers import continuations
from pipeline.teachers.protocol import Answered, Continuation, Teacher
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.ledger import Ledger

log = logging.getLogger("omniopd")


@dataclass
class Arrivals:
    """Replies as they arrive: checked, counted and stored."""

    teacher: Teacher
    limit: int  # teacher tokens of each answer
    budget: Budget
    ledger: Ledger
    handed: Answered | None = None  # the last reply that went to the store
    _doubted: bool = False  # whether the server reads whole prompts, which was said

    def keep(self, judgments: list[Judgment], answered: Answered) -> None:
        """Store the judgments of a reply with what it cost, and count them."""
        self.handed = answered
        paid = Entry(
            bought=len(judgments),
            requests=answered.requests,
            tokens=answered.tokens,
            usd=answered.usd,
        )
        with self.budget.settling():
            self.budget.store.add(judgments, paid)
            self.budget.arrived(answered.requests, answered.reserved, answered.usd)
        self.ledger.served(answered)
        self.ledger.bought += len(judgments)
        self.ledger.requests += answered.requests
        self.ledger.tokens_bought += sum(j.completion_tokens for j in judgments)
        self.ledger.tokens_billed += answered.tokens
        self.ledger.usd += answered.usd

    def check(self, answered: Answered, ask: Ask) -> None:
        """Raise UserError unless the pinned model answered, and read all that it was sent; what
        the reply cost is kept in mind."""
        problem = self._replaced(answered) or self._unread(answered, ask)
        if problem is None:
            return
        self.handed = answered
        paid = Entry(requests=answered.requests, tokens=answered.tokens, usd=answered.usd)
        with self.budget.settling():
            self.budget.store.enter(paid)
            self.budget.arrived(answered.requests, answered.reserved, answered.usd)
        raise UserError(f"teach: {problem}")

    def _replaced(self, answered: Answered) -> str | None:
        returned = {found.model_returned for found in answered.continuations.values()}
        if all(map(self.teacher.same_model, returned)):
            return None
        return (
            f"asked {self.teacher.model}, answered by {', '.join(sorted(returned))}. "
            "Nothing of it was stored. Pin the model that answers "
            f"(model: {' or '.join(sorted(returned))}), or find out why it was replaced."
        )

    def _unread(self, answered: Answered, ask: Ask) -> str | None:
        """The message about a server that read fewer tokens than it was sent: it cut the prompt.

        For text, which it may count otherwise, it only warns, once.
        """
        for draw, found in answered.continuations.items():
            prompt, read = ask.prompts[draw.position], found.prompt_tokens
            sent = self.teacher.size(prompt)
            if not 0 < read < sent:
                continue
            said = (
                f"sent a prompt of {sent} tokens at position {draw.position}, and the server says "
                f"that it read {read}"
            )
            remedy = "Give it a larger context, or name what it has in teachers.*.context."
            if isinstance(prompt, tuple):
                return f"{said}: it cut the rest off. Nothing of it was stored. {remedy}"
            if 2 * read < sent and not self._doubted:
                self._doubted = True
                log.warning(
                    f"teach: {said}. If it cuts prompts, its answers are worth nothing. {remedy}"
                )
        return None

    def judgment(
        self, request: Request, prefix: str, answered: Answered, found: Continuation
    ) -> Judgment:
        """A continuation as it is stored, with its reason where it counts as failed."""
        failure: str | None = found.failure
        if failure is None and not found.text and not found.ended:
            failure = "failed-empty"
        if failure is None and request.continuation == "instruct":
            failure = continuations.failure(prefix, found.text, found.ended)
        return Judgment(
            **request_columns(request),
            token_limit=self.limit,
            text=found.text,
            token_ids=None if found.token_ids is None else tuple(found.token_ids),
            ended=found.ended,
            finish_reason="stop" if found.ended else "length",
            model_returned=found.model_returned,
            prompt_tokens=found.prompt_tokens,
            completion_tokens=found.completion_tokens,
            failure=failure,
            requested_n=answered.requested_n,
            seed_sent=answered.seed_sent,
            usd=found.usd,
            created_at=time.time(),
        )
