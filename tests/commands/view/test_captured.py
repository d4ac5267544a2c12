"""Lines taken at the descriptors: all of them, in order, whatever writes them and however."""

import os
import subprocess
import sys

from tests.project import ROOT

GO = """
import os, sys, time
from pipeline.commands.view.captured import captured
heard = []
def lines(some):
    heard.extend(some)
before = len(os.listdir("/proc/self/fd"))
for _ in range(3):
    with captured((1, 2), lines):
        WRITE
while len(os.listdir("/proc/self/fd")) > before:  # the thread closes its own a moment later
    time.sleep(0.01)
open(sys.argv[1], "w").write(repr(heard))
"""


def heard(tmp_path, write):
    out = tmp_path / "heard"
    command = [sys.executable, "-c", GO.replace("WRITE", write), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, timeout=60)
    return eval(out.read_text())


def test_lines_come_in_order_and_no_descriptor_is_left(tmp_path):
    found = heard(tmp_path, "print(*range(5000), sep=chr(10)); os.write(2, b'unended')")
    assert found == [*map(str, range(5000)), "unended"] * 3


def test_a_bar_is_what_it_showed_at_last(tmp_path):
    """However long it is drawn over itself: 20,000 times took 22 s when all was kept."""
    write = "[os.write(2, b'\\r%d of 20000' % i) for i in range(20001)]; print()"
    assert heard(tmp_path, write) == ["20000 of 20000"] * 3


def test_who_reads_may_fail(tmp_path):
    out = tmp_path / "heard"
    code = GO.replace("heard.extend(some)", "raise ValueError").replace("WRITE", "print('a line')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert (done.stdout + done.stderr).count("a line\n") == 3
