"""A provider's batch service: half the price, up to a day. The batch's id is kept before waiting.

A run that is killed, or another one that wants the same answers, takes the batch up again instead
of paying for a second one. Between the provider's reply and our note of it lies one transaction: a
kill just there loses the batch.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from pipeline.budget import Budget
from pipeline.errors import UserError
from pipeline.judgments.store import Batch
from pipeline.teachers import Answered
from pipeline.teachers.calls import Call, Refused, Reply, Transient

if TYPE_CHECKING:
    from pipeline.teachers.hosted import Hosted

MOST = 10_000  # requests in one batch; providers take 50,000 to 100,000
POLL_SECONDS = 20.0  # between looks at a batch
log = logging.getLogger("omniopd")


async def answer(teacher: "Hosted", calls: list[Call], budget: Budget) -> AsyncGenerator[Answered]:
    """Replies to all calls; what failed or expired in one batch goes into the next."""
    if not teacher.can.batch:
        raise UserError(
            f"teach.transport: {teacher.provider} has no batch service. Set it to live."
        )
    name = f"{teacher.provider} {teacher.model}"
    waiting = {call.draws[0].key: call for call in calls}
    async with teacher.adapter.open() as client:
        for _ in range(teacher.config.tries):
            for batch in budget.store.open_batches(name):
                known = {key: waiting[key] for key in batch.keys if key in waiting}
                if known:
                    log.info(f"teach: waiting for batch {batch.id} of {len(batch.keys)} requests")
                    async for found in _collect(teacher, client, batch, known, waiting):
                        yield found
                    budget.store.collected(batch, known)
            if not waiting:
                return
            await _submit(teacher, client, waiting, name, budget)
    raise UserError(
        f"teacher {teacher.name}: {len(waiting)} requests failed in {teacher.config.tries} "
        "batches. What arrived is kept. Look at them in the provider's console."
    )


async def _submit(
    teacher: "Hosted", client: Any, waiting: dict[str, Call], name: str, budget: Budget
) -> None:
    part = dict(list(waiting.items())[:MOST])
    for call in part.values():
        worst = _worst(teacher, call)
        if not budget.take(worst):
            budget.check()
    first = next(iter(part.values()))
    try:
        id_ = await _tried(teacher, lambda: teacher.adapter.submit(client, part))
    except (Transient, Refused) as error:
        raise teacher.error(first, error, 1) from None
    budget.store.keep_batch(name, Batch(id_, tuple(part)))


async def _collect(
    teacher: "Hosted", client: Any, batch: Batch, known: dict[str, Call], waiting: dict[str, Call]
) -> AsyncGenerator[Answered]:
    first = next(iter(known.values()))
    replies: dict[str, Reply | None] | None = None
    try:
        while replies is None:
            replies = await _tried(teacher, lambda: teacher.adapter.collect(client, batch.id))
            if replies is None:
                await asyncio.sleep(POLL_SECONDS)
    except Refused as error:
        log.warning(f"teach: {teacher.redact(str(error))}; its requests are sent again")
        return
    except Transient as error:
        raise teacher.error(first, error, teacher.config.tries) from None
    for key, call in known.items():
        reply = replies.get(key)
        if reply is not None and reply.choices:
            found = teacher.answered(call, reply, 1, _worst(teacher, call))
            yield found
            _settle(call, found, waiting)


def _settle(call: Call, found: Answered, waiting: dict[str, Call]) -> None:
    """What the reply lacks of its n samples stays waiting, under its own first key."""
    del waiting[call.draws[0].key]
    for draw in call.draws:
        if draw not in found.continuations:
            waiting[draw.key] = Call(call.ask, call.prompt, (draw,), call.limit)


async def _tried(teacher: "Hosted", action: Any) -> Any:
    async for attempt in teacher.tries(asyncio.Event()):
        with attempt:
            return await action()


def _worst(teacher: "Hosted", call: Call) -> float:
    from pipeline.teachers.hosted import tokens

    return teacher.price(tokens(call.prompt), len(call.draws) * call.limit)
