"""`python -m pipeline.runner.ahead.program ROWS CELL TEACH ...`, which stage rollout starts.

ROWS is the number of an open file, CELL the key of the rollout and TEACH that of each teach cell.
pipeline/stage/ahead.py says how the two talk.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from typing import IO, Any

from pipeline.core.errors import UserError
from pipeline.judgments.spool import FOLDER
from pipeline.judgments.store import Store, url
from pipeline.runner.ahead import buying
from pipeline.stage import cells
from pipeline.stage.ahead import END, GRACE_SECONDS

log = logging.getLogger("omniopd")


def main() -> int:
    """The exit status: 0 also where a teacher, a limit or the store stopped it, which is said."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no word to the rollout
    signal.signal(signal.SIGINT, _interrupted)
    rows, key, *teach = sys.argv[1:]
    cells.log_to_stderr()
    complete = threading.Event()
    threading.Thread(target=_listen, args=(complete,), daemon=True).start()
    counts = dict[str, Any]()

    def told(count: int) -> None:
        if complete.is_set():
            _say(out, {"rows": count})

    try:
        with Store(url(), cells.project(), FOLDER, reached=True) as store:
            counts = buying.run(int(rows), complete, key, teach, store, told)
    except (UserError, OSError) as error:
        log.warning(f"rollout {key}: buys no answers ahead: {error}")
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    if counts:
        _say(out, counts)
    return 0


def _interrupted(*_: Any) -> None:
    """Once: a second one, as of a terminal beside the rollout's, would lose what is in flight."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say(out: IO[str], what: dict[str, Any]) -> None:
    out.write(json.dumps(what) + "\n")
    out.flush()


def _listen(complete: threading.Event) -> None:
    """Interrupt this process once the rollout is gone, or wants no more."""
    for line in sys.stdin:
        if line == END:
            complete.set()
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    signal.pthread_kill(main_thread, signal.SIGINT)  # what is in flight is stored
    time.sleep(GRACE_SECONDS)
    os._exit(128 + signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
