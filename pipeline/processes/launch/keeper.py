"""Runs a launcher's command until it ends or its stage does: `keeper.py FD COMMAND...`, alone.

FD is a socket to the stage. A byte from it is a signal for the command; its end, also after a
kill -9 of the stage, cancels the job. At the command's end `ended STATUS` goes back, or `missing
WHY`. A launcher can cancel a job only while it lives: srun that is killed leaves its job where
Slurm's InactiveLimit is 0. So this process leaves the stage's process group, session, parent and
mark, and what ends the stage's whole family does not reach it.

The command's stdin is a pipe with the line HELLO. Where the launcher passes it on (ssh, srun), its
end says to the other side that nobody waits any more (pipeline/processes/launch/inner.py).
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time

HELLO = b"omniopd keeps this open\n"
AGAIN_SECONDS = 0.3  # srun shows its state at the first interrupt, and passes the second one on
TERM_SECONDS = 4.0  # from an interrupt to the next harder word, before our own stage is killed
KILL_SECONDS = 20.0  # from SIGTERM, on which a launcher cancels, to its kill
DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    if os.fork():
        os._exit(0)
    for number in DEAF_TO:  # by a handler: what is ignored stays ignored in the command
        signal.signal(number, lambda *_: None)
    stage = socket.socket(fileno=int(sys.argv[1]))
    try:
        process = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, process_group=0)
    except OSError as error:
        _tell(stage, f"missing {error.strerror}")
        return
    _Kept(process, stage).wait()
    _tell(stage, f"ended {process.returncode}")


class _Kept:
    def __init__(self, process: "subprocess.Popen[bytes]", stage: socket.socket) -> None:
        self.process, self.stage = process, stage
        self.due: list[tuple[float, int]] = []  # signals to come, with their times
        assert process.stdin is not None
        self.stdin = process.stdin
        with contextlib.suppress(OSError):  # it has ended already
            self.stdin.write(HELLO)
            self.stdin.flush()

    def wait(self) -> None:
        """Until the command ends."""
        ended = os.pidfd_open(self.process.pid)
        watched = [ended, self.stage.fileno()]
        while True:
            now = time.monotonic()
            while self.due and self.due[0][0] <= now:
                self.send(self.due.pop(0)[1])
            left = self.due[0][0] - now if self.due else None
            ready = select.select(watched, [], [], left)[0]
            if ended in ready:
                self.process.wait()
                return
            if self.stage.fileno() in ready:
                said = self.said()
                if not said:
                    watched = [ended]
                    said = bytes([signal.SIGTERM])
                self.cancel(said[-1])

    def said(self) -> bytes:
        try:
            return self.stage.recv(64)
        except OSError:
            return b""

    def cancel(self, number: int) -> None:
        """Ask the launcher to end the job: at first as the stage was asked."""
        now = time.monotonic()
        self.send(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        if number == signal.SIGINT:
            term = now + TERM_SECONDS
            self.due = [(now + AGAIN_SECONDS, signal.SIGINT), (term, signal.SIGTERM)]
        else:
            term, self.due = now, []
        self.due.append((term + KILL_SECONDS, signal.SIGKILL))

    def send(self, number: int) -> None:
        if number != signal.SIGINT:
            with contextlib.suppress(OSError):  # HELLO was never read
                self.stdin.close()
        # a launcher may be a script: what it started in its group is asked, too
        os.killpg(self.process.pid, number)


def _tell(stage: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):  # the stage was killed
        stage.sendall(text.encode())


if __name__ == "__main__":
    main()
