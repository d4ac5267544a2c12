"""Claims that a process holds while it buys: renewed by a thread, asked for before each purchase.

A process that was paused (SIGSTOP, a frozen machine), whose clock jumped, or whose renewals failed
for longer than the lease may have lost claims to another, which buys their answers.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection

from pipeline.core.errors import UserError

log = logging.getLogger("omniopd")


class Held:
    """Keys that may be bought, as long as their claims are renewed in time.

    keys     that were claimed; those that are still held, as far as is known
    claimed  when the claims began, by the clock that they are measured with
    renew    extends the claims on some keys; returns those that are still held
    lease    how long a claim lasts, seconds
    """

    def __init__(
        self,
        keys: Collection[str],
        claimed: float,
        renew: Callable[[Collection[str]], set[str]],
        lease: float,
    ) -> None:
        self.keys, self._renewed = frozenset(keys), claimed
        self._renew, self._lease = renew, lease
        self.lost: set[str] = set()  # that were wanted when another had them already
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        if keys:
            self._thread.start()

    def end(self) -> None:
        """Renew no more."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def fresh(self) -> bool:
        """Whether the claims were renewed lately enough to be had without a doubt."""
        return self._renewed <= time.time() <= self._renewed + self._lease / 2

    def still(self, keys: Collection[str]) -> set[str]:
        """Those of `keys` that may be bought now. Raises UserError where the store cannot say.

        The claims are renewed first where that is overdue.
        """
        if not self.fresh:
            with self._lock:
                if not self.fresh:
                    self._extend()
        kept = set(keys) & self.keys
        self.lost |= set(keys) - kept
        return kept

    def _extend(self) -> None:
        begin = time.time()
        self.keys = frozenset(self._renew(self.keys))
        self._renewed = begin

    def _keep(self) -> None:
        while not self._done.wait(self._lease / 3):
            try:
                with self._lock:
                    self._extend()
            except UserError as error:  # before the next purchase it is tried again
                log.warning(f"claims not renewed: {error}")
