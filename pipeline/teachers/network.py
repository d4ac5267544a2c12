"""The event loop that requests run on, in a thread of its own.

Who takes the replies stores them meanwhile: however long the database takes, the loop goes on and
no timer fires on a reply that came in time.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncGenerator, Generator
from typing import Generic, TypeVar

from pipeline.teachers.purchase.budget import Budget

STOP_SECONDS = 3.0  # that what is in flight is waited for after an interrupt
T = TypeVar("T")


def replies(found: AsyncGenerator[T], budget: Budget) -> Generator[T]:
    """Yield what `found` yields; it is resumed when the next one is asked for.

    An interrupt, also one that is thrown in, halts the budget and is raised when what was in flight
    has arrived, or after STOP_SECONDS; a second one is raised at once.
    """
    loop = _Loop(found)
    interrupt: BaseException | None = None
    until = 0.0
    loop.start()
    try:
        while True:
            try:
                left = None if interrupt is None else max(0.0, until - time.monotonic())
                one = loop.arrived.get(timeout=left)
                if one is None:
                    break
                yield one
                loop.resume()
            except (KeyboardInterrupt, SystemExit) as error:
                if interrupt is not None:
                    raise
                interrupt, until, budget.halted = error, time.monotonic() + STOP_SECONDS, True
                budget.store.database.hurry()
                loop.resume()
            except queue.Empty:
                break
    finally:
        loop.end()
    if interrupt is not None:
        raise interrupt
    if loop.error is not None:
        raise loop.error


class _Loop(Generic[T]):
    """Runs a generator; None arrives when it has ended, with its error where it has one."""

    def __init__(self, found: AsyncGenerator[T]) -> None:
        self.arrived: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self.error: BaseException | None = None
        self._found, self._loop = found, asyncio.new_event_loop()
        self._taken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def resume(self) -> None:
        """Resume the loop: what arrived last was taken."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._taken.set)

    def end(self) -> None:
        """Cancel what still runs, and wait for the thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._hand_out())
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised by who takes
                self.error = error
            finally:
                self.arrived.put(None)

    async def _hand_out(self) -> None:
        self._task = asyncio.current_task()
        async with contextlib.aclosing(self._found) as found:
            async for one in found:
                self._taken.clear()
                self.arrived.put(one)
                await self._taken.wait()
