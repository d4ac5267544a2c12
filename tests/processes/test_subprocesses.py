"""Commands side by side: what is handed on of their output."""

import os
import sys

from pipeline.processes.subprocesses import Processes

BARS = r"""
import sys
for part in range(30):
    sys.stderr.write(f"\rloading: {part}/30")
sys.stderr.write("\rloading: 30/30\n")
print("done \N{GREEK SMALL LETTER PI}", flush=True)
sys.stdout.buffer.write(b"\xff left")
"""


def test_a_bar_is_one_line_as_a_terminal_has_it_at_last() -> None:
    lines: list[str] = []
    command = [sys.executable, "-X", "utf8", "-c", BARS]
    assert Processes({**os.environ}).run(command, lines.append) == 0
    assert lines == [
        "loading: 30/30",
        "done \N{GREEK SMALL LETTER PI}",
        "\N{REPLACEMENT CHARACTER} left",
    ]
