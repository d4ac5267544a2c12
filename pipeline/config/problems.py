"""Block prepare of params.yaml: the task, and where its problems come from."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, Field, SerializeAsAny, model_validator

from pipeline.config.params import Count, Name, Params, Sha256
from pipeline.core import extensions
from pipeline.core.chosen import chosen, file_of

TaskName = Literal["arithmetic", "reasoning-gym", "math", "code", "prompts"]  # a file each


class TaskPrepare(Params):
    """Base of what a task asks for: class `Prepare` of pipeline/tasks/NAME, a file or folder."""

    graded: ClassVar[bool] = True  # the task has a checker
    sandboxed: ClassVar[bool] = False  # the checker runs programs in pipeline/sandbox

    task: str
    seed: int
    train: Count  # problems in the pool; round r takes slice r
    dev: Count
    test: Count

    @property
    def rows(self) -> str | None:
        """The file or folder that `prepare` reads; empty for a hub, None for made-up problems."""
        return None

    @property
    def imported(self) -> bool:
        """Whether its rows are rollouts that another trainer made
        (pipeline/training/external_rollouts.py)."""
        return False

    def resolved(self) -> dict[str, Any]:
        """As cells hold it: files of problems with the hash of their content."""
        return self.model_dump(mode="json", exclude_none=True)


class ProblemSet(Params):
    """Rows of problems in a file of prepare.folder, or of a dataset on a hub."""

    file: str | None = None  # or a folder, of a kind that pipeline/data/row_files.py knows
    sha256: Sha256 | None = None  # of the file; `omniopd plan` fills it in
    hub: str | None = None  # name of a Hugging Face dataset; needs the package datasets
    config: str | None = None
    hub_split: str = "train"
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None  # a commit
    splits: tuple[Literal["train", "dev", "test"], ...]  # of ours, that it is drawn for

    @model_validator(mode="after")
    def _one_source(self) -> "ProblemSet":
        if (self.file is None) == (self.hub is None):
            raise ValueError("either file or hub")
        if self.hub is not None and self.revision is None:
            raise ValueError("revision, the commit of the hub's dataset")
        return self


class RowsPrepare(TaskPrepare):
    """Base of tasks whose problems are rows that somebody else wrote."""

    folder: str | None = None  # of the sets' files
    sets: Mapping[Name, ProblemSet]

    @model_validator(mode="after")
    def _has_folder(self) -> "RowsPrepare":
        if self.folder is None and any(found.file for found in self.sets.values()):
            raise ValueError("folder, where the files of sets lie")
        return self

    @property
    def rows(self) -> str:
        return self.folder or ""

    def resolved(self) -> dict[str, Any]:
        from pipeline.data.content_hash import sha256

        values = super().resolved()
        for name, found in self.sets.items():
            if found.file is not None:
                values["sets"][name]["sha256"] = sha256(f"{self.folder}/{found.file}", found.sha256)
        return values


class _Task(BaseModel):
    task: TaskName


def _prepare(values: Any) -> Any:
    if isinstance(values, TaskPrepare):
        return values
    name = values.get("task") if isinstance(values, dict) else None
    if not extensions.named(name):
        name = _Task.model_validate(values).task
    made: type[TaskPrepare] = chosen("pipeline.tasks", file_of(str(name)), "Prepare")
    return made.model_validate_json(json.dumps(values))


# each task's own class, from its own file: a cell loads no other task
Prepare = Annotated[SerializeAsAny[TaskPrepare], BeforeValidator(_prepare)]
