"""The command line itself: its help, its version, what the shell completes."""

import os
import subprocess
from importlib.metadata import version

import pytest

from tests.project import BIN


def omniopd(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [BIN / "omniopd", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("command", [[], ["judgments"], ["plan"]])
def test_h_is_help(command: list[str]) -> None:
    assert omniopd(*command, "-h") == omniopd(*command, "--help") != ""


def test_its_version_is_the_package_s() -> None:
    assert omniopd("--version") == f"omniopd {version('omniopd-pipeline')}\n"


def test_the_shell_completes_commands() -> None:
    found = omniopd(_OMNIOPD_COMPLETE="complete_bash", COMP_WORDS="omniopd ver", COMP_CWORD="1")
    assert found.split() == ["verify", "verify-code"]
    assert "_OMNIOPD_COMPLETE" in omniopd("--show-completion", "bash")
