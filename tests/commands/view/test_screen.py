"""Lines and pictures on a terminal: what stands there at last."""

import fcntl
import os
import pty
import struct
import termios

import pytest
from rich.text import Text

from pipeline.commands.view.screen import Screen
from tests.commands.view.terminal import shows

END = "the end"


@pytest.fixture
def terminal():
    """Both ends of one."""
    master, slave = pty.openpty()
    resize(slave, 20)
    yield master, slave
    os.close(master)
    os.close(slave)


def resize(slave, columns):
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 10, columns, 0, 0))


def sent(terminal):
    """What the terminal was sent since the last time."""
    master, slave = terminal
    os.write(slave, END.encode())
    found = b""
    while not found.endswith(END.encode()):
        found += os.read(master, 10_000)
    return found.decode().removesuffix(END)


def test_a_picture_takes_the_place_of_the_last_and_lines_stay_above_it(terminal):
    screen = Screen(terminal[1])
    assert screen.size() == (20, 9)
    screen.say("one\n")
    screen.draw(Text("a picture\nof two"))
    screen.say("a line that is longer than 20\n")
    screen.draw(Text("another"))
    found = sent(terminal)
    assert shows(found, 20) == ["one", "a line that is longe", "r than 20", "another"]
    screen.close(clear=True)
    found += sent(terminal)
    assert shows(found, 20)[-1] == "r than 20"
    screen.draw(Text("too late"))
    screen.say("but lines come\n")
    assert sent(terminal).split() == ["but", "lines", "come"]


def test_a_terminal_made_narrower_has_broken_the_lines_of_the_picture(terminal):
    resize(terminal[1], 60)
    screen = Screen(terminal[1])
    screen.draw(Text("0123456789" * 5 + "\n1"))
    resize(terminal[1], 25)
    sent(terminal)
    screen.draw(Text("x"))
    assert sent(terminal).startswith("\x1b[3A\r\x1b[J")


def test_a_picture_higher_than_the_terminal_is_cut(terminal):
    screen = Screen(terminal[1])
    screen.draw(Text("\n".join(map(str, range(30)))))
    assert shows(sent(terminal), 20) == [*map(str, range(9))]


def test_a_terminal_that_is_gone_raises_nothing():
    source, sink = os.pipe()
    os.close(source)
    screen = Screen(sink)
    screen.say("a line\n")
    screen.draw(Text("a picture"))
    screen.close(clear=True)
    os.close(sink)


def test_a_sign_that_the_terminal_has_not_is_shown_by_its_number(terminal):
    screen = Screen(terminal[1], "ascii")
    assert screen.plain
    assert not Screen(terminal[1], "UTF-8").plain
    screen.say("é\n")
    assert sent(terminal).strip() == "\\xe9"
