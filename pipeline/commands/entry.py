"""The command `omniopd`: a stage at once, anything else through the whole command line.

A stage starts thousands of times, so nothing that only the command line needs is imported for it.
"""

import sys

from pipeline.processes import program


def main() -> None:
    """Run what the command line says. The exit status is that of the stage or command."""
    if sys.argv[1:2] == ["stage"] and sys.argv[2:3] and sys.argv[2] in program.stages():
        program.run(sys.argv[2], sys.argv[3:])
        return
    from pipeline.commands import app

    app.main()


if __name__ == "__main__":
    main()
