"""Files by their hashes, between a folder and where all can reach them: DVC's remote, or a cache
that machines share.

A file is an entry as dvc.lock has it: path, md5, size. What arrives is read through, as DVC itself
takes an object's name for its content.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity
import typer

from pipeline.core import dvc_objects
from pipeline.core.errors import UserError, short

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage, Stage

Entry = dict[str, Any]
T = TypeVar("T")
AWAY_SECONDS = 600.0  # for which a remote that cannot be reached is tried again
PAUSE_SECONDS = 10.0  # between two tries at most


class Away(UserError):
    """The remote cannot be reached, or not for all that was asked: another time it may."""


NEVER = Event()  # that is set when nobody waits for the remote any more


def _patiently(over: Event, work: Callable[[], T]) -> T:
    """What `work` returns, tried again while the remote is away. Raises Away at the end."""
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Away),
        wait=tenacity.wait_exponential(max=PAUSE_SECONDS),
        stop=tenacity.stop_after_delay(AWAY_SECONDS) | tenacity.stop_when_event_set(over),
        sleep=tenacity.sleep_using_event(over),
        before_sleep=_wait,
        reraise=True,
    ):
        with attempt:
            try:
                return work()
            except UserError:
                raise
            except Exception as error:  # of boto, of paramiko, of whatever speaks to a remote
                raise Away(
                    f"the remote: {type(error).__name__}: {short(str(error), 300)}. See that it "
                    "can be reached, then run it again."
                ) from error
    raise AssertionError


def _wait(state: tenacity.RetryCallState) -> None:
    assert state.outcome is not None
    assert state.next_action is not None
    said = str(state.outcome.exception()).partition(". ")[0]
    typer.echo(f"{said}; tried again in {state.next_action.sleep:.0f} s")


def stage(repo: "Repo", cmd: str, outs: Sequence[str]) -> "PipelineStage":
    """A stage that no dvc.yaml has, for DVC's own functions."""
    from dvc.stage import PipelineStage, create_stage

    return create_stage(PipelineStage, repo=repo, path="dvc.yaml", cmd=cmd, outs=list(outs))


def remote(repo: "Repo") -> bool:
    """Whether there is one; else the cache has to be the same for all."""
    return bool(repo.config["core"].get("remote"))


def bring(repo: "Repo", entries: Sequence[Entry], over: Event = NEVER) -> None:
    """Put files and folders in their places. Raises UserError where one cannot be had whole."""
    if not entries:
        return
    damaged: dict[Path, str] = {}
    for _ in range(2):
        _patiently(over, lambda: _checkout(repo, entries))
        damaged = _damaged(repo, entries)
        if not damaged:
            return
        for path, oid in damaged.items():  # once more, and then not from here
            path.unlink(missing_ok=True) if not path.is_dir() else shutil.rmtree(path)
            dvc_objects.place(cache(repo), oid).unlink(missing_ok=True)
    first, oid = next(iter(damaged.items()))
    where = "the remote" if remote(repo) else "the shared cache"
    raise UserError(
        f"{first}: found other content than MD5 {oid}, wanted what its cell wrote; {where} has it "
        "damaged. Run `omniopd verify --remote` at the head, then make its cell run again."
    )


def offer(repo: "Repo", entries: Sequence[Entry], over: Event = NEVER) -> None:
    """Let others have files of this folder's cache. Raises UserError where some did not arrive."""
    if not entries or not remote(repo):
        return
    objects = _objects(_filled(repo, entries))

    def push() -> None:
        if failed := repo.cloud.push(objects).failed:
            raise Away(
                f"the remote took all but {len(failed)} of {len(objects)} objects. See that it "
                "can be written, then run it again."
            )

    _patiently(over, push)


def offer_run(repo: "Repo", done: "Stage", over: Event = NEVER) -> None:
    """Let others restore the stage, as `dvc push --run-cache` does for all of them."""
    if not remote(repo):
        return
    from dvc.stage.cache import _get_cache_hash, _get_stage_hash
    from dvc.stage.serialize import to_single_stage_lockfile
    from dvc_objects.fs.generic import copy

    known = repo.stage_cache
    value = _get_cache_hash(to_single_stage_lockfile(done))
    path = known._get_cache_path(_get_stage_hash(done), value)
    to = repo.cloud.get_remote_odb(None, "push --run-cache", hash_name="md5-dos2unix")
    parts = Path(path).relative_to(repo.cache.legacy.path).parts
    place = to.fs.join(to.path, *parts)
    _patiently(over, lambda: copy(repo.cache.legacy.fs, path, to.fs, place))


def cache(repo: "Repo") -> Path:
    return Path(repo.cache.local.path)


def _filled(repo: "Repo", entries: Sequence[Entry]) -> "PipelineStage":
    from dvc.stage.loader import StageLoader

    made = stage(repo, "", [entry["path"] for entry in entries])
    StageLoader.fill_from_lock(made, {"cmd": "", "outs": list(entries)})
    return made


def _objects(made: "PipelineStage") -> set[Any]:
    return {one for some in made.get_used_objs().values() for one in some}


def _checkout(repo: "Repo", entries: Sequence[Entry]) -> None:
    made = _filled(repo, entries)
    if not made.outs_cached():
        if not remote(repo):
            lost = min(out.def_path for out in made.outs if out.changed_cache())
            raise UserError(
                f"{lost}: found its content not in {cache(repo)}, and no remote, wanted one of "
                "them shared with the head. Set `dvc remote add -d`, or `dvc cache dir` to one "
                "folder for all."
            )
        failed = repo.cloud.pull(_objects(made)).failed
        if failed:
            raise Away(
                f"{entries[0]['path']} and {len(entries) - 1} more: {len(failed)} objects did not "
                "come from the remote, wanted all. See that it can be read, then run it again."
            )
    for out in made.outs:  # not by the stage, which claims what the flow has claimed
        out.checkout(force=True)


def _damaged(repo: "Repo", entries: Iterable[Entry]) -> dict[Path, str]:
    """Files that are not what they should be, with the MD5 that they should have."""
    found: dict[Path, str] = {}
    for entry in entries:
        path, oid = Path(repo.root_dir, entry["path"]), str(entry["md5"])
        parts = {path: oid}
        if oid.endswith(dvc_objects.FOLDER):
            listing = dvc_objects.listing(cache(repo), oid)
            parts |= {path / name: one for name, one in (listing or {}).items()}
            if listing is not None:
                del parts[path]
        found |= {one: md5 for one, md5 in parts.items() if not _is(one, md5)}
    return found


def _is(path: Path, oid: str) -> bool:
    return path.is_file() and dvc_objects.md5(path) == oid
