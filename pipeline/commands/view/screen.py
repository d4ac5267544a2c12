"""Lines on a terminal, and below them a picture that is drawn over the one before.

Nothing of the terminal is changed but what stands in it: the cursor is not hidden and no other
screen is shown, so that a process that is killed leaves it as it should be.
"""

import os
import sys
from collections.abc import Sequence
from io import StringIO
from threading import RLock

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

STDOUT = 1
UP_AND_CLEAR = "\x1b[{}A\r\x1b[J"
SMALLEST = (20, 3)  # of a terminal that says it has none
UNKNOWN = (80, 23)


class Screen:
    """Writes to a descriptor of the terminal; once that is gone, to nobody. For several threads."""

    def __init__(self, descriptor: int, encoding: str = "utf-8") -> None:
        self._descriptor, self._encoding = descriptor, encoding
        self._drawn: Sequence[int] = ()  # width of each line of the picture
        self._lines = ""  # the picture, as it was written
        self._lock, self._closed = RLock(), False

    @property
    def plain(self) -> bool:
        """Whether the terminal has no signs but those of ASCII, as far as its locale says."""
        return not self._encoding.lower().replace("-", "").startswith("utf")

    def size(self) -> tuple[int, int]:
        """Columns, and lines that a picture may have: below it stands the cursor."""
        try:
            found = os.get_terminal_size(self._descriptor)
        except OSError:
            return UNKNOWN
        return max(found.columns, SMALLEST[0]), max(found.lines - 1, SMALLEST[1])

    def say(self, text: str) -> None:
        """Write text that ends with its line above the picture."""
        with self._lock:
            self._write(self._erased() + text + self._lines)

    def draw(self, picture: RenderableType) -> None:
        """Put a picture in the place of the last one; never after `close`."""
        with self._lock:
            if self._closed:
                return
            width, height = self.size()
            text = rendered(picture, width, height)
            erased = self._erased()
            lines = text.splitlines()[:height]
            self._lines = "".join(f"{line}\x1b[0m\n" for line in lines)
            self._drawn = [cell_len(Text.from_ansi(line).plain) for line in lines]
            self._write(erased + self._lines)

    def close(self, clear: bool) -> None:
        """Draw no more; `clear`: and take the picture away."""
        with self._lock:
            if clear:
                self._write(self._erased())
            self._lines, self._drawn, self._closed = "", (), True

    def _erased(self) -> str:
        """What takes the picture away. A terminal that was made narrower has broken its lines."""
        width, _ = self.size()
        height = sum(max(-(-columns // width), 1) for columns in self._drawn)
        return UP_AND_CLEAR.format(height) if height else ""

    def _write(self, text: str) -> None:
        rest = text.encode(self._encoding, errors="backslashreplace")
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:  # it was closed: the run is told so by the signal, if at all
            self._closed = True


def possible() -> bool:
    """Whether stdout is a terminal that can be drawn on, and somebody looks at it."""
    try:
        terminal = os.isatty(STDOUT) and sys.stdout.fileno() == STDOUT
    except (OSError, ValueError):
        return False
    skilled = os.environ.get("TERM", "") not in ("", "dumb")
    return terminal and skilled and not os.environ.get("CI")


def rendered(picture: RenderableType, width: int, height: int) -> str:
    """What a terminal is sent for a picture."""
    console = Console(
        file=StringIO(), width=width, height=height, force_terminal=True, legacy_windows=False
    )
    with console.capture() as found:
        console.print(picture)
    return found.get()
