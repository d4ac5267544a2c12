"""Ask git about the repository that the current folder is in."""

import subprocess
from pathlib import Path

from pipeline.core.errors import UserError


def said(*words: str) -> str:
    """The output of git, without white space around it. Raises UserError if it fails."""
    try:
        done = _run(*words)
    except FileNotFoundError as error:
        raise UserError("git: found no such program, wanted it on PATH. Install it.") from error
    if done.returncode:
        raise UserError(f"git {words[0]}: found '{done.stderr.strip()}', wanted it to succeed.")
    return done.stdout.strip()


def asked(*words: str | Path) -> str:
    """The output of git, to the letter; empty where it fails, as outside of a repository."""
    try:
        done = _run(*words)
    except FileNotFoundError:
        return ""
    return "" if done.returncode else done.stdout


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], capture_output=True, encoding="utf-8", check=False)
