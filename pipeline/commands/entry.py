"""The command `omniopd`: a stage at once, anything else through the whole command line.

Where runtime.launch has a prefix for its kind of cell, a stage is started by that instead, and
`omniopd launched` is what the prefix starts.

A stage starts thousands of times, so nothing that only the command line needs is imported for it.
"""

import os
import sys

from pipeline.processes import program
from pipeline.processes.launch import client

JUDGMENTS = "JUDGMENTS_URL"
URL_FILE = "judgments.url"  # of the project, by `omniopd share --judgments`


def main() -> None:
    """Run what the command line says. The exit status is that of the stage or command."""
    _name_store()
    if sys.argv[1:2] == ["stage"] and sys.argv[2:3] and sys.argv[2] in program.stages():
        client.hand_over(sys.argv[2], sys.argv[3:])
        program.run(sys.argv[2], sys.argv[3:])
        return
    if sys.argv[1:2] == ["launched"] and "stage" in sys.argv[4:]:
        from pipeline.processes.launch import inner

        sys.exit(inner.main(sys.argv[2:]))
    from pipeline.commands import app

    app.main()


def _name_store() -> None:
    """Give this process, and all that it starts, the store that the project names, unless its own
    environment names one."""
    if not os.environ.get(JUDGMENTS) and os.path.isfile(URL_FILE):
        with open(URL_FILE, encoding="utf-8", errors="replace") as file:
            # an empty one is refused by its name, never the store of the user's own
            os.environ[JUDGMENTS] = file.read().strip() or URL_FILE


if __name__ == "__main__":
    main()
