"""Pushing to the remote and pulling from it, in a limit of time, and saying by name what is amiss.

DVC's own commands do it. What their exit status does not say is looked up: a push passes over
objects that are nowhere, and a fetch over those that are damaged in the remote. arrived.py looks.
"""

import json
import sys
from pathlib import Path

from pipeline.core import dvc_objects
from pipeline.core.errors import UserError, short
from pipeline.runner import restoring, retention
from pipeline.runner.dag import plan_files
from pipeline.runner.sharing import limited

SECONDS = 3600.0
SHOWN = 5  # outs that a message names
EVERYTHING = ("--all-branches", "--all-tags")


def push(seconds: float) -> str:
    """Send what this clone's workspace, branches and tags need; in words. Raises UserError where
    any of it is not in the remote afterwards."""
    name = _remote()
    command = plan_files.dvc("push", "--run-cache", *EVERYTHING)
    done = limited.run(command, seconds, f"the push to remote {name}", shown=True)
    if done.status:
        raise UserError(
            f"`dvc push` ended with status {done.status}; its own message is above. Correct that, "
            "then run this again: what arrived is kept."
        )
    complete(seconds, send=True)
    return f"remote {name} has all that this clone's workspace, branches and tags need"


def complete(seconds: float, send: bool = False) -> None:
    """Raise UserError naming what the remote lacks of what this clone needs. `send`: what the cache
    has of that is sent first.

    Weights that experiment.keep_checkpoints dropped may be lacking.
    """
    command = [sys.executable, "-P", "-m", "pipeline.runner.sharing.arrived", *["send"] * send]
    done = limited.run(command, seconds, "the look at the remote")
    if done.status:
        raise UserError(
            f"the remote: found {short(done.last, 300)}, wanted to see what it has. Correct that."
        )
    dropped = _dropped()
    lacking = {
        path: here
        for path, here in json.loads(done.said).items()
        if not any(Path(path).is_relative_to(one) for one in dropped)
    }
    if lacking:
        shown = [f"{path} ({'new' if here else 'nowhere'})" for path, here in lacking.items()]
        raise UserError(
            f"the remote lacks {len(lacking)} files that this clone needs: "
            f"{', '.join(sorted(shown)[:SHOWN])}. Wanted none. `omniopd cache push` sends what is "
            "new; what is nowhere, `dvc repro` makes again."
        )


def pull(seconds: float) -> str:
    """Bring what dvc.lock names, and the run-cache; in words. Raises UserError naming what did not
    come whole."""
    name = _remote()
    command = plan_files.dvc("fetch", "--run-cache")
    done = limited.run(command, seconds, f"the fetch from remote {name}", shown=True)
    if lacking := _lacking():
        raise UserError(_refused(lacking, done.status))
    keep = retention.of(plan_files.current(), retention.wanted())
    restoring.restore(keep, plan_files.dvc("checkout"), plan_files.environment())
    return f"all that dvc.lock names is here, as it is in remote {name}"


def remote() -> str:
    """The name of the project's default remote; empty without one. Raises UserError."""
    from dvc.config import Config
    from dvc.exceptions import DvcException

    try:
        found = Config(str(Path(".dvc").absolute()))["core"].get("remote")
    except DvcException as error:
        raise UserError(f"DVC cannot read the project's settings: {error}") from error
    return str(found or "")


def _remote() -> str:
    if not (found := remote()):
        raise UserError("found no default remote, wanted one. Run `omniopd share --remote URL`.")
    return found


def _dropped() -> list[Path]:
    """Weights that need not be anywhere."""
    keep = retention.of(plan_files.current(), retention.wanted())
    return [path for cell in keep.readers for path in retention.weights(cell) if not path.exists()]


def _lacking() -> dict[str, tuple[str, str]]:
    """Objects that the cache does not have: of which file, and of which cell."""
    cache, outs, dropped = dvc_objects.configured(), dvc_objects.outs(), _dropped()
    wanted = {path: out for path, out in outs.items() if Path(path) not in dropped}
    found = {
        out.oid: (path, out.cell)
        for path, out in wanted.items()
        if out.oid.endswith(dvc_objects.FOLDER) and dvc_objects.listing(cache, out.oid) is None
    }
    for path, oid, cell in dvc_objects.files(cache, wanted):
        if not dvc_objects.place(cache, oid).is_file():
            found[oid] = path, cell
    return found


def _refused(lacking: dict[str, tuple[str, str]], status: int) -> str:
    """What to say of objects that did not come. `status`: of DVC, whose own message came first."""
    said = {oid: f"{path} of {cell}" for oid, (path, cell) in lacking.items()}
    if status == 0:  # then DVC reached the remote, and let what it refused go without a word
        from dvc.repo import Repo

        odb = Repo().cloud.get_remote_odb()
        there = {oid: "damaged" if odb.exists(oid) else "not there" for oid in said}
        said = {oid: f"{text} ({there[oid]}: {oid})" for oid, text in said.items()}
    shown = sorted(said.values())
    return (
        f"{len(shown)} objects did not come from the remote as dvc.lock names them: "
        f"{', '.join(shown[:SHOWN])}{', ...' * (len(shown) > SHOWN)}. Wanted all whole. Where "
        "DVC's message above is of the connection, run this again. Else, in a clone that has them: "
        "delete the damaged ones in the remote (`omniopd verify --remote` says where), then "
        "`omniopd cache push`; without such a clone `omniopd repro` makes their cells again."
    )
