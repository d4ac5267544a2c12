"""Replies that cost more than was set aside for them: the next ones are set aside that much.

A request is estimated by its limit of tokens. A server that does not keep to it, or that counts a
prompt in its own way, sends replies that cost a multiple.
"""

import logging
import threading
from dataclasses import dataclass, field

WORTH_SAYING = 1.5  # times the estimate; less is within what estimates of a text's tokens miss
log = logging.getLogger("omniopd")


@dataclass
class Overrun:
    """The highest multiple of its estimate that a reply has cost; 1 where none cost more."""

    times: float = 1.0
    _said: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def learn(self, reserved: float, usd: float) -> None:
        """A reply that `reserved` dollars were set aside for cost `usd`."""
        with self._lock:
            if reserved > 0:
                self.times = max(self.times, usd / reserved)
            said, self._said = self._said, self._said or self.times >= WORTH_SAYING
        if self._said and not said:
            log.warning(
                f"teach: a reply cost ${usd:.4f}, {self.times:.1f} times what was set aside for it "
                f"(${reserved:.4f}): the server writes more than max_tokens, or reads more than "
                "was estimated. Later ones are set aside as much as that; `omniopd teacher check` "
                "shows whether its token limit holds."
            )
