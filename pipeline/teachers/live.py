"""Calls asked one by one: bounded, paced, tried again where that may help.

Replies are yielded as they arrive. After an error nothing new is sent, but what is in flight is
waited for: it is paid for. Only a killed process loses it.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any

from aiolimiter import AsyncLimiter

from pipeline.config.teachers import Hosted
from pipeline.core.errors import UserError
from pipeline.teachers.protocol import Answered
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.wire.calls import (
    Call,
    Refused,
    Reply,
    Service,
    Transient,
    roomy,
    runs,
    tries,
)

BURST_SECONDS = 10.0  # of a minute's tokens, what may be sent at once


async def answer(teacher: Service, calls: list[Call], budget: Budget) -> AsyncGenerator[Answered]:
    """Replies to all calls, in the order in which they arrive.

    Raises UserError after everything in flight has arrived.
    """
    _not_in_a_batch(teacher, calls, budget)
    async with teacher.adapter.open() as client:
        count = min(teacher.config.concurrency, len(calls))
        line = _Line(teacher, client, budget, iter(calls), Pace(teacher.config), count)
        workers = [asyncio.create_task(line.work()) for _ in range(count)]
        try:
            while count:
                answered = await line.arrived.get()
                if answered is None:
                    count -= 1
                else:
                    yield answered
                    line.room.release()  # it is stored
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


def _not_in_a_batch(teacher: Service, calls: list[Call], budget: Budget) -> None:
    """Raise UserError if a run that was ended has paid for some of these in a batch."""
    if not teacher.can.batch or not calls:
        return
    keys = {draw.key for call in calls for draw in call.draws}
    for batch in budget.store.open_batches(teacher.batches(calls[0].limit)):
        if not keys.isdisjoint(batch.keys):
            raise UserError(
                f"teach.transport: {len(keys & set(batch.keys))} of these requests are in batch "
                f"{batch.id}, which an earlier run handed in. Set it to batch to collect them, or "
                "cancel the batch with the provider and collect what is left."
            )


class Pace:
    """Requests and tokens a minute, as the provider's tier allows."""

    def __init__(self, config: Hosted) -> None:
        requests, count = config.requests_per_minute, config.tokens_per_minute
        # one request at a time, evenly: a bucket of a minute would begin with a burst
        self._requests = AsyncLimiter(1, 60 / requests) if requests else None
        share = 60 / BURST_SECONDS
        self._tokens = AsyncLimiter(count / share, BURST_SECONDS) if count else None

    async def wait(self, tokens: float) -> None:
        """Wait until a request of `tokens` tokens, prompt and completion, may be sent."""
        if self._requests:
            await self._requests.acquire()
        if self._tokens:
            await self._tokens.acquire(min(tokens, self._tokens.max_rate))


@dataclass
class _Line:
    teacher: Service
    client: Any
    budget: Budget
    waiting: Iterator[Call]  # shared by the workers
    pace: Pace
    concurrency: int

    def __post_init__(self) -> None:
        # what is with the provider or not yet stored, and would be lost with this process
        self.room = asyncio.Semaphore(2 * self.concurrency)
        self.arrived: asyncio.Queue[Answered | None] = asyncio.Queue()  # None: a worker ended
        self.stop = asyncio.Event()

    async def work(self) -> None:
        try:
            for call in self.waiting:
                if self.stop.is_set() or not await self._ask(call):
                    break
        except BaseException:
            self.stop.set()
            raise
        finally:
            self.arrived.put_nowait(None)

    async def _ask(self, call: Call) -> bool:
        """Ask until every draw of the call has an answer, or another process has taken it.

        False where nothing may be sent.
        """
        pending = [call]
        while pending:
            part = pending.pop(0)
            await self.room.acquire()
            answered = await self._answered(part)
            if answered is None:
                return False
            if isinstance(answered, set):
                self.room.release()
                kept = [draw for draw in part.draws if draw.key in answered]
                pending[:0] = runs(part, kept, len(part.draws))
                continue
            self.arrived.put_nowait(answered)
            missing = [draw for draw in part.draws if draw not in answered.continuations]
            pending += runs(part, missing, len(part.draws))
        return True

    async def _answered(self, call: Call) -> Answered | set[str] | None:
        """The reply of one request, tried again after transient errors; None if told to stop.

        Where another process has taken some of its draws, the keys that are left.
        """
        worst, size = self.teacher.worst(call)
        asked = sent = 0
        reply = None
        try:
            async for attempt in tries(self.teacher.config.tries, self.stop):
                with attempt:
                    await self.pace.wait(size)
                    left = await self.budget.still([draw.key for draw in call.draws])
                    if len(left) < len(call.draws):
                        await self._gave_up(sent)
                        return left
                    await self.budget.looked()
                    if self.stop.is_set() or not self.budget.take(worst, look=False):
                        await self._gave_up(sent)
                        return None
                    asked, sent = asked + 1, sent + 1
                    try:
                        reply = await self._send(call)
                    except (Transient, Refused) as error:
                        if error.reached:
                            billed = not error.answered
                            await asyncio.to_thread(self.budget.failed, worst, billed)
                        else:
                            self.budget.unsent(worst)
                            sent -= 1
                        raise
        except (Transient, Refused) as error:
            await asyncio.to_thread(self.budget.gave_up, sent)
            raise self.teacher.error(call, error, asked) from None
        assert reply is not None
        answered = self.teacher.answered(call, reply, sent, worst)
        self.budget.overrun.learn(worst, answered.usd)
        return answered

    async def _gave_up(self, sent: int) -> None:
        if sent:
            await asyncio.to_thread(self.budget.gave_up, sent)  # it waits for the database

    async def _send(self, call: Call) -> Reply:
        """One try. Raises Transient, also when nothing usable came back, or Refused."""
        seconds = self.teacher.config.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                with roomy(call):
                    reply = await self.teacher.adapter.send(self.client, call)
        except TimeoutError as error:
            raise Transient(f"no reply in {seconds} s") from error
        samples = [choice.sample for choice in reply.choices]
        if len(set(samples)) < len(samples):
            raise Refused(
                f"{len(samples)} choices with the indices {sorted(samples)}; "
                "set samples_per_request: 1 for this teacher"
            )
        if not samples:
            raise Transient("a reply without any choice")
        if not any(0 <= sample < len(call.draws) for sample in samples):
            raise Refused(
                f"choices with the indices {sorted(samples)}, wanted 0 to {len(call.draws) - 1}"
            )
        return reply
