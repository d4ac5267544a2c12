"""The command line itself: its help, its version, what the shell completes."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.project import BIN, ROOT


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
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # no shell need have started us
    assert "_OMNIOPD_COMPLETE" in omniopd("--show-completion", "bash", **named)


def test_a_stage_is_started_without_the_command_line_and_with_no_folder_to_import_from(
    tmp_path,
):
    code = """
import atexit, os, sys
def tell():
    heavy = {"typer", "pipeline.commands.app", "dvc", "torch"} & sys.modules.keys()
    here = bool({"", os.getcwd()} & {*sys.path})
    print(sorted(heavy), here, os.environ["PYTHONSAFEPATH"], sys.argv[1:])
atexit.register(tell)
sys.argv = ["omniopd", "stage", "score", "--help"]
from pipeline.commands.entry import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("usage: omniopd stage score")
    assert done.stdout.splitlines()[-1] == "[] False 1 ['--help']"
