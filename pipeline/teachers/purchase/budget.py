"""A limit on requests and dollars: a hard stop that leaves a state to go on from."""

import asyncio
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.core.errors import UserError
from pipeline.judgments.claims.held import Held
from pipeline.judgments.ledger import Entry
from pipeline.judgments.store import Store
from pipeline.teachers.purchase.overrun import Overrun

LOOK_SECONDS = 1.0  # between looks at what other processes of this project have spent


@dataclass
class Budget:
    """`teach.max_requests` and `teach.max_usd` over everything that this project ever bought.

    A project is a folder. What is in flight counts at the highest price that it is estimated to
    have, times what replies have cost beyond their estimates: so the limit is passed by no more
    than what was in flight when that was first seen. Processes that run side by side see each
    other's purchases within a second, so together they can pass the limit by what they send in that
    time; what a killed process had in flight is not counted.
    """

    store: Store
    max_requests: int | None = None
    max_usd: float | None = None
    refused: str | None = None  # why nothing more may be sent
    halted: bool = False  # nothing more may be sent, for a reason that others report
    held: Held | None = None  # the claims on what is bought; None where nobody else may buy it
    overrun: Overrun = field(default_factory=Overrun)
    _requests: int = 0  # in flight, or answered without an answer that could be kept
    _usd: float = 0.0  # in flight, as estimated
    _spent_requests: int = 0
    _spent_usd: float = 0.0
    _looked: float = field(default=float("-inf"))
    # requests are sent by one thread, replies stored by another. The first is held over what enters
    # the ledger and is counted here, so that no look falls between; the second for an instant
    _settles: threading.Lock = field(default_factory=threading.Lock)
    _counts: threading.RLock = field(default_factory=threading.RLock)

    async def still(self, keys: Collection[str]) -> set[str]:
        """Those of `keys` that no other process has taken meanwhile. Raises UserError."""
        if self.held is None:
            return set(keys)
        if self.held.fresh:
            return self.held.still(keys)
        return await asyncio.to_thread(self.held.still, keys)  # it waits for the database

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Around storing a reply and `arrived`."""
        with self._settles:
            yield

    async def looked(self) -> None:
        """Look at what others have spent, where that is due. Raises UserError."""
        if self._due():
            await asyncio.to_thread(self._look_once)  # it waits for the database

    def _due(self) -> bool:
        limited = self.max_requests is not None or self.max_usd is not None
        return limited and time.monotonic() - self._looked > LOOK_SECONDS

    def _look_once(self) -> None:
        with self._settles:
            if self._due():
                self.look()

    def take(self, usd: float, look: bool = True) -> bool:
        """Whether one request more, of at most `usd` dollars, may be sent now.

        `look`: at what others have spent, which waits for the database; else after `looked`.
        """
        with self._counts:
            return self._take(usd, look)

    def _take(self, usd: float, look: bool) -> bool:
        if self.refused or self.halted:
            return False
        if self.max_requests is None and self.max_usd is None:
            return True
        if look and self._due():
            self.look()
        if self.max_requests is not None:
            sent = self._spent_requests + self._requests
            if sent >= self.max_requests:
                self.refused = f"{sent} requests sent, teach.max_requests is {self.max_requests}"
                return False
        if self.max_usd is not None:
            worst = self._spent_usd + (self._usd + usd) * self.overrun.times
            if worst > self.max_usd:
                self.refused = (
                    f"${self._spent_usd:.4f} spent, the next request and those in flight may cost "
                    f"${worst - self._spent_usd:.4f}{self._beyond()}, and teach.max_usd is "
                    f"{self.max_usd}"
                )
                return False
        self._requests += 1
        self._usd += usd
        return True

    def _beyond(self) -> str:
        times = self.overrun.times
        return "" if times == 1.0 else f" (replies cost up to {times:.2f} times their estimate)"

    def arrived(self, requests: int, reserved: float, usd: float) -> None:
        """A reply was committed: what it took moves from in flight to spent."""
        with self._counts:
            self._requests -= requests
            self._usd -= reserved
            self._spent_requests += requests
            self._spent_usd += usd

    def unsent(self, usd: float) -> None:
        """A request that was taken and could not be sent."""
        with self._counts:
            self._requests -= 1
            self._usd -= usd

    def resumed(self, usd: float) -> None:
        """A request that a killed run had sent, and that no ledger has yet, is waited for."""
        self._requests += 1
        self._usd += usd

    def gave_up(self, requests: int) -> None:
        """Requests that brought nothing: they cost nothing, and the ledger has them as sent."""
        with self.settling():
            self.store.enter(Entry(requests=requests))
            with self._counts:
                self._requests -= requests
                self._spent_requests += requests

    def failed(self, usd: float, billed: bool) -> None:
        """A request failed and still counts as sent. It costs nothing where the provider said so;
        one that broke off may have been billed, and counts at its highest price."""
        cost = usd * self.overrun.times if billed else 0.0
        with self.settling():
            if cost:
                self.store.enter(Entry(usd=cost))
            with self._counts:
                self._usd -= usd
                self._spent_usd += cost

    def look(self) -> None:
        spent = self.store.spent()
        with self._counts:
            self._spent_requests, self._spent_usd = spent.requests, spent.usd
        self._looked = time.monotonic()

    def check(self) -> None:
        """Raise UserError if a request was refused."""
        if self.refused:
            raise UserError(
                f"teach: stopped by the budget: {self.refused}. Every answer that arrived is in "
                "the store. Raise the limit in params.yaml and run `dvc repro`: it goes on there."
            )
