"""A team on one host: clones of one repository with caches of their own, of which one is the head
and the others are workers on Ray; Prefect's server, an S3 remote, Postgres. All on loopback.

    python -m tests.runner.workers.team PARAMS [--workers N]

runs the experiment of PARAMS on the team, and by plain `dvc repro` in one more clone, which has a
store of its own and no service. Exit status 0 if both have the same cells of the same bytes. In an
experiment of a minute that is tests/runner/workers/test_team.py.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import team
from tests.project import MINIATURE, PYTHONPATH, Project
from tests.runner.workers.cluster import Hosts, listening
from tests.runner.workers.services import Postgres, Prefect
from tests.telling import wait_for

IGNORED = ".loaded\n.prefect/\njudgments.sqlite*\n.dvc/tmp/\n"
LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


class Team(Hosts):
    """Clones `head`, `worker-N` and `alone` of the repository `origin`, in `folder`."""

    def __init__(
        self, folder: Path, params: Path = MINIATURE, path: str = PYTHONPATH, **changes: Any
    ) -> None:
        """`path`: where Python looks for packages. `changes`: of params.yaml, as `Project.edit`
        takes them."""
        super().__init__(folder, s3=True)
        self.prefect, self.postgres = Prefect(), Postgres()
        self.origin = Project(folder / "origin", params)
        self.origin.edit(**changes) if changes else None
        (folder / "origin" / "params.before").unlink(missing_ok=True)
        cluster = {k: v for k, v in self.environment.items() if k.startswith(("RAY_", "AWS_"))}
        self.environment = self.origin.environment(
            **cluster,
            PYTHONPATH=path,
            PYTHONUNBUFFERED="1",
            JUDGMENTS_URL="",  # what judgments.url says
            OMNIOPD_PREFECT_URL=self.prefect.url,
            XDG_CACHE_HOME=str(folder / "xdg"),
        )
        try:
            self._shared()
            team.clone(self.origin.folder, self.head)
            self.alone = Project.at(team.clone(self.origin.folder, folder / "alone"))
        except BaseException:
            self.end()  # its services run already
            raise

    def _shared(self) -> None:
        """The repository as a team has it: with its DAG, its remote and its store."""
        folder = self.origin.folder
        (folder / ".dvc" / ".gitignore").write_text(team.IGNORED)
        with (folder / ".gitignore").open("a") as file:
            file.write(IGNORED)
        said = self.remote.settings
        for words in (
            ("plan",),
            ("share", "--remote", said["url"], "--endpoint", said["endpointurl"]),
            ("share", "--judgments", self.postgres.url),
        ):
            self.command(folder, "omniopd", *words)
        team.commit(folder)

    def command(self, folder: Path, *words: str) -> str:
        done = subprocess.run(
            words, cwd=folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise AssertionError(f"{words} failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def worker(self, number: int, *words: str) -> "subprocess.Popen[str]":
        name = f"worker-{number}"
        if not (self.folder / name).exists():
            team.clone(self.origin.folder, self.folder / name)
        return self.start(name, "omniopd", "worker", "--join", self.address, *words)

    def ray(self) -> "subprocess.Popen[str]":
        """The head's run on the workers."""
        return self.run("omniopd", "run", "--on", "ray", "--listen", self.address)

    def plainly(self) -> dict[str, Any]:
        """What plain `dvc repro` makes of the same experiment in one clone, by itself."""
        self.alone.run("omniopd", "plan", OMNIOPD_PREFECT_URL="")
        self.alone.run("dvc", "repro", OMNIOPD_PREFECT_URL="")
        return made(self.alone)

    def end(self) -> None:
        super().end()
        self.prefect.end()
        self.postgres.end()


def made(project: Project) -> dict[str, Any]:
    """Of each cell but the report, which tells seconds: its command, what it read and wrote.

    Folders are compared by their files, as each has a run.json, which tells seconds, too.
    """
    locked = project.locked()
    folders = {out["path"] for entry in locked.values() for out in entry["outs"]}
    return {
        name: (
            entry["cmd"],
            {one["path"]: one["md5"] for one in entry["deps"] if one["path"] not in folders},
            project.files(name),
        )
        for name, entry in locked.items()
        if name.partition("@")[0] not in ("plan", "report")
    }


def differ(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Cells that are not the same."""
    return sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("params", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="omniopd-team-") as folder:
        found = Team(Path(folder), args.params)
        start = time.monotonic()
        try:
            head = found.ray()
            for number in range(args.workers):
                found.worker(number + 1)
            found.wait("head", f"with room for {args.workers} cells at a time")
            addresses = listening(found.left())
            status = head.wait()
        finally:
            sys.stdout.write(found.said("head")[-3000:])
            found.end()
        took = time.monotonic() - start
        wait_for(lambda: not found.left())
        start = time.monotonic()
        theirs, ours = found.plainly(), made(Project.at(found.head))
        alone = time.monotonic() - start
        wrong = differ(ours, theirs)
        sys.stdout.write(
            f"\n{len(ours)} cells on {args.workers} workers: status {status}, {took:.0f} s; plain "
            f"dvc repro {alone:.0f} s. Other: {wrong or 'none'}. Listening at {addresses}\n"
        )
    sys.exit(1 if status or wrong or not ours or addresses - LOOPBACK else 0)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
