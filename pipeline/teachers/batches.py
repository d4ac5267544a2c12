"""A provider's batch service: half the price, up to a day. The batch's id is kept before waiting.

A run that is killed, or another one that wants the same answers, takes the batch up again instead
of paying for a second one. Between the provider's reply and our note of it lies one transaction: a
kill just there loses the batch.
"""

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.budget import Budget
from pipeline.errors import UserError
from pipeline.judgments.store import Batch
from pipeline.teachers import Answered
from pipeline.teachers.calls import Call, Refused, Result, Transient

if TYPE_CHECKING:
    from pipeline.teachers.hosted import Hosted

MOST = 10_000  # requests in one batch; providers take 50,000 to 100,000
POLL_SECONDS = 20.0  # between looks at a batch
log = logging.getLogger("omniopd")
T = TypeVar("T")


async def answer(teacher: "Hosted", calls: list[Call], budget: Budget) -> AsyncGenerator[Answered]:
    """Replies to all calls; what failed or expired in one batch goes into the next."""
    if not calls:
        return
    if not teacher.can.batch:
        raise UserError(
            f"teach.transport: {teacher.provider} has no batch service. Set it to live."
        )
    async with teacher.adapter.open() as client:
        order = _Order(teacher, client, budget, {call.draws[0].key: call for call in calls})
        try:
            for _ in range(teacher.config.tries):
                await order.send()
                for batch in order.open():
                    async for found in order.collect(batch):
                        yield found
                if budget.refused or not order.waiting:
                    return
        finally:
            order.settle()
    raise UserError(
        f"teacher {teacher.name}: {len(order.waiting)} requests failed in "
        f"{teacher.config.tries} batches, last: {teacher.redact(order.why)}. What arrived is kept."
    )


@dataclass
class _Order:
    """What one process wants from a batch service, by the key of each call's first draw."""

    teacher: "Hosted"
    client: Any
    budget: Budget
    waiting: dict[str, Call]
    sent: Counter[str] = field(default_factory=Counter)  # times that a call was sent
    why: str = ""  # the last failure

    @property
    def name(self) -> str:
        """Whose batches may serve: an answer of a smaller limit would be too short."""
        limit = next(iter(self.waiting.values())).limit
        return f"{self.teacher.provider} {self.teacher.model}, {limit} tokens"

    def open(self) -> list[Batch]:
        """The batches that have something of this order."""
        if not self.waiting:
            return []
        found = self.budget.store.open_batches(self.name)
        return [batch for batch in found if not self.waiting.keys().isdisjoint(batch.keys)]

    async def send(self) -> None:
        """Hand in what no open batch has, as far as the budget goes; all parts run at once."""
        underway = {key for batch in self.open() for key in batch.keys}
        for key in underway & self.waiting.keys() - self.sent.keys():  # of a run that was killed
            self.budget.resumed(self._worst(self.waiting[key]))
            self.sent[key] = 1
        new = [key for key in self.waiting if key not in underway]
        allowed = itertools.takewhile(
            lambda key: self.budget.take(self._worst(self.waiting[key])), new
        )
        while part := list(itertools.islice(allowed, MOST)):
            calls = {key: self.waiting[key] for key in part}
            try:
                id_ = await self._tried(partial(self.teacher.adapter.submit, self.client, calls))
            except (Transient, Refused) as error:
                raise self.teacher.error(calls[part[0]], error, 1) from None
            self.budget.store.keep_batch(self.name, Batch(id_, tuple(part)))
            self.sent.update(part)

    def settle(self) -> None:
        """What was sent and brought nothing enters the ledger; open batches do when collected."""
        underway = {key for batch in self.open() for key in batch.keys}
        for key in self.waiting.keys() - underway:
            if self.sent[key]:
                self.budget.gave_up(self.sent[key])

    async def collect(self, batch: Batch) -> AsyncGenerator[Answered]:
        """Wait for a batch. What it lacks, and what failed in it, stays waiting."""
        known = {key: self.waiting[key] for key in batch.keys if key in self.waiting}
        log.info(f"teach: waiting for batch {batch.id} of {len(batch.keys)} requests")
        results = await self._results(batch, next(iter(known.values())))
        refused: tuple[Call, Refused] | None = None
        for key, call in known.items():
            match results.get(key, Transient(f"batch {batch.id} has no result for it")):
                case Transient() as error:
                    self.why = str(error)
                    self.budget.failed(self._worst(call))
                case Refused() as error:
                    refused = (call, error)
                    self.budget.failed(self._worst(call))
                case reply:
                    worst = self._worst(call)
                    found = self.teacher.answered(call, reply, self.sent[key], worst)
                    yield found
                    self._answered(call, found)
        self.budget.store.collected(batch, known)
        if refused:
            raise self.teacher.error(*refused, sent=self.sent[refused[0].draws[0].key])

    async def _results(self, batch: Batch, first: Call) -> Mapping[str, Result]:
        try:
            while True:
                found = await self._tried(
                    partial(self.teacher.adapter.collect, self.client, batch.id)
                )
                if found is not None:
                    return found
                await asyncio.sleep(POLL_SECONDS)
        except Refused as error:
            if not error.gone:
                raise self.teacher.error(first, error, 1) from None
            log.warning(f"teach: {self.teacher.redact(str(error))}; its requests are sent again")
            return dict.fromkeys(batch.keys, Transient(str(error)))
        except Transient as error:
            raise self.teacher.error(first, error, self.teacher.config.tries) from None

    def _answered(self, call: Call, found: Answered) -> None:
        """What the reply lacks of its n samples stays waiting, under its own first key."""
        del self.waiting[call.draws[0].key]
        for draw in call.draws:
            if draw not in found.continuations:
                self.waiting[draw.key] = Call(call.ask, call.prompt, (draw,), call.limit)

    async def _tried(self, action: Callable[[], Awaitable[T]]) -> T:
        return await self.teacher.tries(asyncio.Event())(action)

    def _worst(self, call: Call) -> float:
        from pipeline.teachers.hosted import tokens

        return self.teacher.price(tokens(call.prompt), len(call.draws) * call.limit)
