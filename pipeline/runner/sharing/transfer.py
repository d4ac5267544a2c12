"""Pushing to the remote and pulling from it, in a limit of time, and saying by name what is amiss.

DVC's own commands do it. What their exit status does not say is looked up: a push passes over
objects that are nowhere, and a fetch over those that are damaged in the remote.
"""

import json
from pathlib import Path

from pipeline.core import dvc_objects
from pipeline.core.errors import UserError
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
    complete(seconds)
    return f"remote {name} has all that this clone's workspace, branches and tags need"


def complete(seconds: float) -> None:
    """Raise UserError naming what the remote lacks, as `dvc status --cloud` sees it.

    Weights that experiment.keep_checkpoints dropped may be lacking.
    """
    command = plan_files.dvc("status", "--cloud", *EVERYTHING, "--json")
    done = limited.run(command, seconds, "the look at the remote")
    if done.status:
        raise UserError(f"`dvc status --cloud`: found '{done.last}', wanted it to succeed.")
    dropped = _dropped()
    lacking = {
        path: state
        for path, state in json.loads(done.said or "{}").items()
        if state != "deleted"  # it is in the remote and not here
        and not any(Path(path).is_relative_to(one) for one in dropped)
    }
    if lacking:
        shown = ", ".join(f"{path} ({state})" for path, state in sorted(lacking.items())[:SHOWN])
        raise UserError(
            f"the remote lacks {len(lacking)} files that this clone needs: {shown}. Wanted none. "
            "`omniopd cache push` sends what is new; what is missing is nowhere, and "
            "`dvc repro` makes it again."
        )


def pull(seconds: float) -> str:
    """Bring what dvc.lock names, and the run-cache; in words. Raises UserError naming what did not
    come whole."""
    name = _remote()
    command = plan_files.dvc("fetch", "--run-cache")
    done = limited.run(command, seconds, f"the fetch from remote {name}", shown=True)
    if done.status:
        raise UserError(
            f"`dvc fetch` ended with status {done.status}; its own message is above. Correct that, "
            "then run this again: what arrived is kept."
        )
    lacking = _lacking()
    if lacking:
        raise UserError(_refused(lacking))
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


def _refused(lacking: dict[str, tuple[str, str]]) -> str:
    from dvc.repo import Repo

    odb = Repo().cloud.get_remote_odb()
    there = {oid for oid in lacking if odb.exists(oid)}
    said = [
        f"{path} of {cell} ({'damaged' if oid in there else 'not there'}: {oid})"
        for oid, (path, cell) in sorted(lacking.items(), key=lambda one: one[1])
    ]
    return (
        f"the remote has {len(said)} objects not as dvc.lock names them: {', '.join(said[:SHOWN])}"
        f"{', ...' * (len(said) > SHOWN)}. Wanted all whole. In a clone that has them: delete the "
        "damaged ones in the remote (`omniopd verify --remote` says where), then `omniopd cache "
        "push`. Without one, `omniopd repro` makes their cells again."
    )
