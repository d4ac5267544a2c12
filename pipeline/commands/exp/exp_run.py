"""`omniopd exp run`: set params, plan, and run what that means as a DVC experiment.

DVC reads the graph before its own `-S` changes params.yaml, and so would run the plan of before.
An experiment is a commit of what git tracks, so the files of a new plan are given to git first.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.commands import reruns
from pipeline.config import renamed, yaml_edit
from pipeline.core import extensions, git, yaml_files
from pipeline.core.errors import UserError
from pipeline.plan import experiment
from pipeline.plan.blocks import PARAMS
from pipeline.runner import repro
from pipeline.runner.dag import plan_files
from pipeline.stage.cells import write_text

ELSEWHERE = ("--queue", "--run-all", "--temp", "--set-param", "-S")
# from the cache, so that nothing runs; of HEAD, as git add took the file
BACK = "git checkout HEAD -- params.yaml && omniopd repro"


def run(sets: list[str], name: str | None, flags: list[str]) -> str:
    """Run the experiment here; what to do next, in words. `flags` go to `dvc exp run`.

    Nothing is changed unless the values make a plan that may run. Raises UserError.
    """
    for flag in flags:
        if flag.partition("=")[0] in ELSEWHERE:
            raise UserError(
                f"omniopd exp run: found {flag}, wanted a run in this folder, where the plan is "
                "written. Leave it out."
            )
    _refuse(name)
    with planned(overridden(sets)):
        git.said("add", "--all", "--", str(PARAMS), "dag", "code", extensions.FOLDER)
    named = ["--name", name] if name else []
    with _attached():
        try:
            seconds = repro.repro("exp", "run", *named, *flags)
        except UserError as error:
            error.args = (
                f"{error} params.yaml and dag/ are this experiment's; `{BACK}` puts the "
                "last commit's back.",
            )
            raise
    return (
        f"run: {seconds:.0f} s. `omniopd exp show` compares it. params.yaml, dag/ and data/ are "
        f"this experiment's now; `{BACK}` puts the last commit's back."
    )


def overridden(sets: list[str]) -> str:
    """The text of params.yaml with values set, by Hydra's grammar as `dvc exp run -S` has it.

    Raises UserError where a value cannot be set, or the experiment would not be sound.
    """
    text, said = yaml_files.text(PARAMS), str(PARAMS)
    if sets:
        said = f"{PARAMS} with {' '.join(f'-S {one}' for one in sets)}"
        experiment.read_yaml(PARAMS)  # a file that cannot be read is told as such
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / PARAMS.name
            path.write_text(text, encoding="utf-8")
            bare = (one.removeprefix(f"{PARAMS}:") for one in sets)
            values = yaml_files.parsed(text, said)
            _apply(path, renamed.as_written(bare, values, experiment.RENAMED))
            dumped = path.read_text(encoding="utf-8")  # with its lists laid out anew
        text = yaml_edit.edited(text, yaml_files.parsed(dumped, said)) or dumped
    experiment.of(yaml_files.parsed(text, said), said)
    return text


def _apply(path: Path, sets: list[str]) -> None:
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides, to_hydra_overrides
    from hydra.errors import HydraException

    try:
        for one in to_hydra_overrides(sets):
            if one.is_sweep_override():
                raise UserError(
                    f"-S {one.input_line}: found several values, wanted one. Run it once for each; "
                    "a list is written in brackets: KEY=[1,2]."
                )
        apply_overrides(path, sets)
    except (DvcException, HydraException) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(
            f"-S {' -S '.join(sets)}: found '{reason}', wanted KEY=VALUE of a key that params.yaml "
            "has, such as train.beta=0.2; +KEY=VALUE adds one."
        ) from error


def _refuse(name: str | None) -> None:
    """Raise UserError where DVC could not make an experiment of that name."""
    head = git.asked("rev-parse", "--verify", "--quiet", "HEAD").strip()
    if not head:
        raise UserError(
            "omniopd exp run: found no commit, wanted one to compare with. Run `omniopd plan`, "
            "then `git add --all && git commit`."
        )
    if name is None:
        return
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    if not git.asked("check-ref-format", "--print", ref).strip():
        raise UserError(
            f"--name {name}: found a name that git does not take, wanted letters, digits and `-`. "
            "Choose another one."
        )
    if git.asked("rev-parse", "--verify", "--quiet", ref).strip():
        raise UserError(
            f"--name {name}: found an experiment of that name, wanted a new one. Choose another "
            f"one, or remove it with `dvc exp remove {name}`."
        )


@contextmanager
def planned(text: str) -> Iterator[None]:
    """Write params.yaml and plan; params.yaml is put back if that, or the block, fails."""
    before = PARAMS.read_bytes()
    write_text(PARAMS, text)
    try:
        reruns.tell(plan_files.write(buying=True))
        yield
    except BaseException:
        PARAMS.write_bytes(before)
        raise


@contextmanager
def _attached() -> Iterator[None]:
    """DVC works on a detached HEAD: if it is killed there, HEAD is on its branch again after."""
    branch = git.asked("symbolic-ref", "--quiet", "HEAD").strip()
    try:
        yield
    finally:
        if branch and not git.asked("symbolic-ref", "--quiet", "HEAD").strip():
            git.said("symbolic-ref", "HEAD", branch)
