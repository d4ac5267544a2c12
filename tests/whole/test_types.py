"""mypy, as a test: it takes one core for a minute, while the other workers go on."""

import subprocess

from tests.project import BIN, ROOT


def test_the_types_are_right():
    done = subprocess.run([BIN / "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
