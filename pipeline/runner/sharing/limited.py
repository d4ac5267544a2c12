"""A command with a limit of time: what waits for a remote that died would wait for ever."""

import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.processes import reaper, stopping, subprocesses
from pipeline.runner.dag import plan_files

GROUP = 0o002  # umask: what is written into a shared cache its group may write


class Done(NamedTuple):
    status: int
    said: str  # on stdout
    last: str  # the last line on stderr


def run(
    command: Sequence[str], seconds: float, what: str, asked: str = "", shown: bool = False
) -> Done:
    """Run it to its end. `shown`: what it says on stderr goes to ours.

    Raises UserError naming `what` where it takes longer; it and what it started are gone then.
    """
    with stopping.heard(), reaper.watched():
        process = subprocess.Popen(
            command,
            env=plan_files.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if shown else subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            process_group=0,
            umask=GROUP,
        )
        try:
            said, wrong = process.communicate(asked, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            subprocesses.end([process.pid])
            process.communicate()
            raise UserError(
                f"{what}: found no end after {seconds:g} s, wanted one. See that it answers, or "
                "give it longer, then run this again: what arrived is kept."
            ) from error
        except stopping.Asked as signalled:
            subprocesses.end([process.pid])
            raise stopping.Stopped("what arrived is kept. Rerun to go on.", signalled) from None
    return Done(process.returncode, said, ((wrong or "").strip().splitlines() or [""])[-1])
