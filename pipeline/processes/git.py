"""What git says of the repository that the current folder is in."""

import subprocess

from pipeline.core.errors import UserError


def said(*words: str, fails: bool = False) -> str:
    """What git prints. Raises UserError if it fails, or gives nothing if it `fails` may."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, encoding="utf-8", check=False)
    except FileNotFoundError as error:
        if fails:
            return ""
        raise UserError("git: found no such program, wanted it on PATH. Install it.") from error
    if done.returncode and not fails:
        raise UserError(f"git {words[0]}: found '{done.stderr.strip()}', wanted it to succeed.")
    return "" if done.returncode else done.stdout.strip()
