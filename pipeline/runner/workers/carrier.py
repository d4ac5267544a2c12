"""Cells in a worker's folder, one after another, in a process beside Ray's: the import of DVC takes
as long as a short stage.

On stdin what is to be done, a cell a line, as JSON; its end, when Ray's process is gone, ends the
stage. All that a stage says comes out as it is said, and then MARK and what came of it. Nothing of
the folder's dvc.lock is read or written: the head does that.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from pipeline.config.params_file import PARAMS
from pipeline.core import verified
from pipeline.core.errors import STATUS, UserError, paragraph
from pipeline.core.files import replacing
from pipeline.processes import reaper, stopping, subprocesses
from pipeline.processes.launch.client import INSIDE
from pipeline.runner.dag import plan_files
from pipeline.runner.workers import objects
from pipeline.runner.workers.task import CARDS, MARK, OWN, READY

REMOTE_SECONDS = 3600.0  # DVC waits for ever for a remote that died while it was spoken to


def main() -> None:
    cells: SimpleQueue[bytes] = SimpleQueue()
    try:
        with stopping.heard():
            threading.Thread(target=_hear, args=[cells], daemon=True).start()
            _say(READY)
            while True:
                result = _result(json.loads(cells.get()))
                _say(f"\n{MARK}{json.dumps(result)}\n")
    except stopping.Asked as error:
        sys.exit(error.status)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _result(asked: dict[str, Any]) -> dict[str, Any]:
    """What came of a cell, when nothing that its stage started still runs."""
    try:
        with reaper.watched():
            return _carry(asked)
    except (UserError, OSError) as error:
        _say(f"error: {paragraph(error)}\n")
        return {"status": STATUS}


def _carry(asked: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    _write(asked["files"])
    try:
        with closing(Repo(_wait_for_lock=True)) as repo:
            made = objects.stage(repo, asked["cmd"], asked["outs"])
            with repo.lock, _limited():
                objects.bring(repo, asked["deps"])
                made.remove_outs(ignore_remove=True, force=True)
            more = {**verified.asked(objects.cache(repo)), **asked["cards"], INSIDE: "1"}
            status = _run(asked["cmd"], more)
            if status:
                return {"status": status}
            with repo.lock, _limited():
                made.save_outs()
                made.commit()
                entries = [_entry(out) for out in made.outs]
                objects.offer(repo, entries)
    except DvcException as error:
        raise UserError(f"DVC: {error}. Correct that on this worker.") from error
    return {"status": 0, "outs": entries, "seconds": time.perf_counter() - start}


@contextmanager
def _limited() -> Iterator[None]:
    """End this process where the block, which speaks to a remote, takes too long."""
    timer = threading.Timer(REMOTE_SECONDS, os.kill, [os.getpid(), signal.SIGKILL])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _entry(out: Any) -> dict[str, Any]:
    from dvc.stage.serialize import to_single_stage_lockfile

    found: list[dict[str, Any]] = to_single_stage_lockfile(out.stage)["outs"]
    return next(dict(one) for one in found if one["path"] == out.def_path)


def _write(files: dict[str, str]) -> None:
    """What the head sent along: the cell's file, its lock, params.yaml. Ours is kept aside."""
    for name, content in files.items():
        path, data = Path(name), base64.b64decode(content)
        if path.is_file() and path.read_bytes() == data:
            continue
        if path == PARAMS and path.is_file() and not (old := Path(f"{name}.own")).exists():
            old.write_bytes(path.read_bytes())
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)


def _environment() -> dict[str, str]:
    """The worker's, without what Ray adds that a fork server would refuse (fork_worker.py)."""
    found = plan_files.environment() | json.loads(os.environ[OWN])
    return {k: v for k, v in found.items() if v is not None and not k.endswith(CARDS)}


def _run(command: str, more: dict[str, str]) -> int:
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        env={**_environment(), **more},
        stdin=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        return process.wait()
    except stopping.Asked:
        subprocesses.end([process.pid])
        raise


def _hear(cells: "SimpleQueue[bytes]") -> None:
    """Hand on each line of stdin; its end is ours."""
    rest = b""
    with suppress(OSError):
        while piece := os.read(0, 1 << 16):  # a thread in sys.stdin would abort Python at its end
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                cells.put(line)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
