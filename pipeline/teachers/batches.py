"""A provider's batch service: half the price, up to a day. The batch's id is kept before waiting.

A run that is killed, or another one that wants the same answers, takes the batch up again instead
of paying for a second one. A kill while it is being handed in loses it, and so does a connection
that breaks off just then: nobody can tell whether the provider took it, so it is not sent again.
"""

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from pipeline.core.errors import UserError
from pipeline.judgments.store import Batch
from pipeline.teachers.protocol import Answered
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.wire.calls import (
    FIRST_WAIT,
    MISSING,
    Call,
    Refused,
    Result,
    Service,
    Transient,
    room,
    runs,
    tries,
)

MOST = 10_000  # requests in one batch; providers take 50,000 to 100,000
OVERHEAD = 600  # bytes of a request around its prompt
POLL_SECONDS = 20.0  # between looks at a batch
LONGEST_SECONDS = 1800.0  # for handing a batch in, or for its results: hundreds of megabytes
log = logging.getLogger("omniopd")
T = TypeVar("T")


async def answer(teacher: Service, calls: list[Call], budget: Budget) -> AsyncGenerator[Answered]:
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
                    async for answered in order.collect(batch):
                        yield answered
                if budget.refused or budget.halted or not order.waiting:
                    return
        finally:
            order.settle()
    raise UserError(
        f"teacher {teacher.name}: {len(order.waiting)} requests failed in "
        f"{teacher.config.tries} batches, last: {teacher.redact(order.why)}. What arrived is kept."
    )


@dataclass
class _Order:
    """The calls that one process wants of a batch service, by the key of each call's first draw."""

    teacher: Service
    client: Any
    budget: Budget
    waiting: dict[str, Call]
    sent: Counter[str] = field(default_factory=Counter)  # times that a call was sent
    why: str = ""  # the last failure

    def open(self) -> list[Batch]:
        """The batches that have something of this order."""
        if not self.waiting:
            return []
        name = self.teacher.batches(next(iter(self.waiting.values())).limit)
        found = self.budget.store.open_batches(name)
        return [batch for batch in found if not self.waiting.keys().isdisjoint(batch.keys)]

    async def send(self) -> None:
        """Hand in what no open batch has, as far as the budget goes; all parts run at once."""
        underway = {key for batch in self.open() for key in batch.keys}
        for key in underway & self.waiting.keys() - self.sent.keys():  # of a run that was killed
            self.budget.resumed(self.teacher.worst(self.waiting[key])[0])
            self.sent[key] = 1
        await self._drop_lost(underway)
        new = [key for key in self.waiting if key not in underway]
        allowed = itertools.takewhile(
            lambda key: self.budget.take(self.teacher.worst(self.waiting[key])[0]), new
        )
        for part in self._parts(allowed):
            calls = {key: self.waiting[key] for key in part}
            id_ = await self._submit(calls)
            name = self.teacher.batches(calls[part[0]].limit)
            self.budget.store.keep_batch(name, Batch(id_, tuple(part)))
            self.sent.update(part)

    async def _drop_lost(self, underway: set[str]) -> None:
        """Wait no longer for what another process has taken; what is underway is paid for."""
        new = [call for key, call in self.waiting.items() if key not in underway]
        kept = await self.budget.still([draw.key for call in new for draw in call.draws])
        for call in new:
            left = [draw for draw in call.draws if draw.key in kept]
            if len(left) < len(call.draws):
                del self.waiting[call.draws[0].key]
                parts = runs(call, left, len(call.draws))
                self.waiting |= {part.draws[0].key: part for part in parts}

    def _parts(self, keys: Iterator[str]) -> Iterator[list[str]]:
        """`keys` in parts that a batch can hold, by number and size."""
        part: list[str] = []
        size = 0
        for key in keys:
            prompt = self.waiting[key].prompt
            own = OVERHEAD + (len(prompt.encode()) if isinstance(prompt, str) else 8 * len(prompt))
            if part and (len(part) >= MOST or size + own > self.teacher.adapter.batch_bytes):
                yield part
                part, size = [], 0
            part.append(key)
            size += own
        if part:
            yield part

    async def _submit(self, calls: Mapping[str, Call]) -> str:
        """The batch's id. Tried again only where the provider says that it did not take it."""
        first = next(iter(calls.values()))
        submit = partial(self.teacher.adapter.submit, self.client, calls)
        for left in reversed(range(self.teacher.config.tries)):
            try:
                return await _in_time(submit)
            except Transient as error:
                if not error.answered:
                    raise UserError(
                        f"teacher {self.teacher.name}: the connection broke off while a batch of "
                        f"{len(calls)} requests was handed in "
                        f"({self.teacher.redact(str(error))}). Look in the provider's console "
                        "whether it was taken, and cancel it there, before you rerun."
                    ) from None
                if not left:
                    raise self.teacher.error(first, error, self.teacher.config.tries) from None
                await asyncio.sleep(error.retry_after or FIRST_WAIT)
            except Refused as error:
                raise self.teacher.error(first, error, 1) from None
        raise AssertionError("teachers.*.tries is at least 1")

    def settle(self) -> None:
        """Enter what was sent and brought nothing into the ledger; open batches when collected."""
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
            worst, _ = self.teacher.worst(call)
            match _fitting(results.get(key, results.get(MISSING, _absent(batch))), call):
                case Transient() as error:
                    self.why = str(error)
                    self.budget.failed(worst, billed=not error.answered)
                case Refused() as error:
                    refused = (call, error)
                    self.budget.failed(worst, billed=False)
                case reply:
                    answered = self.teacher.answered(call, reply, self.sent[key], worst)
                    self.budget.overrun.learn(worst, answered.usd)
                    yield answered
                    self._answered(call, answered)
        self.budget.store.collected(batch, known)
        if refused:
            raise self.teacher.error(*refused, sent=self.sent[refused[0].draws[0].key])

    async def _results(self, batch: Batch, first: Call) -> Mapping[str, Result]:
        try:
            while True:
                results = await self._tried(
                    partial(self.teacher.adapter.collect, self.client, batch.id)
                )
                if results is not None:
                    return results
                await asyncio.sleep(POLL_SECONDS)
        except Refused as error:
            if error.batch == "kept":
                raise self.teacher.error(first, error, 1) from None
            if error.batch == "ended":
                return {MISSING: error}
            log.warning(f"teach: {self.teacher.redact(str(error))}; its requests are sent again")
            return {MISSING: Transient(str(error), answered=True)}
        except Transient as error:
            raise self.teacher.error(first, error, self.teacher.config.tries) from None

    def _answered(self, call: Call, found: Answered) -> None:
        """Take a reply; samples that it lacks of its n stay waiting, under their own first key."""
        del self.waiting[call.draws[0].key]
        for draw in call.draws:
            if draw not in found.continuations:
                self.waiting[draw.key] = Call(call.ask, call.prompt, (draw,), call.limit)

    async def _tried(self, action: Callable[[], Awaitable[T]]) -> T:
        return await tries(self.teacher.config.tries, asyncio.Event())(partial(_in_time, action))


def _fitting(result: Result, call: Call) -> Result:
    """A result, unless it holds more than it may: a batch is read whole, with more room than one
    reply has."""
    if isinstance(result, Transient | Refused):
        return result
    size = sum(len(choice.text) for choice in result.choices)
    if size <= room(call):
        return result
    return Transient(f"an answer of {size:,} characters, wanted one that fits what was asked for")


def _absent(batch: Batch) -> Transient:
    """The error of a request that the results leave out: it expired, so it costs nothing."""
    return Transient(f"not in batch {batch.id}", answered=True)


async def _in_time(action: Callable[[], Awaitable[T]]) -> T:
    """Await `action`. Raises Transient where a server goes on sending without an end."""
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            return await action()
    except TimeoutError as error:
        raise Transient(f"no reply in {LONGEST_SECONDS:.0f} s") from error
