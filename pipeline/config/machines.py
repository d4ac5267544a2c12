"""Block runtime as params.yaml has it: with what the runner reads of it, and no stage does."""

import shlex
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pipeline.config import params_file
from pipeline.config.params import Runtime
from pipeline.processes.launch.kinds import KINDS, Kind


def _words(text: str) -> str:
    try:
        shlex.split(text)
    except ValueError as error:
        raise PydanticCustomError(
            "prefix", "the words of a command as a shell reads them: {why}", {"why": str(error)}
        ) from error
    return text


def _kinds(prefixes: Any) -> Any:
    unknown = [str(x) for x in prefixes if x not in KINDS] if isinstance(prefixes, dict) else []
    if unknown:
        raise PydanticCustomError(
            "kind",
            "kinds of cells, {kinds}, and {unknown} is none",
            {"kinds": ", ".join(KINDS), "unknown": ", ".join(unknown)},
        )
    return prefixes


Prefix = Annotated[str, Field(pattern=r"\S", max_length=1000), AfterValidator(_words)]


class Machines(Runtime):
    # the words before a stage's command, for each kind of cell that is to start elsewhere, as
    # {gpu: "srun -p gpu --gres=gpu:1"}
    launch: Annotated[dict[Kind, Prefix], BeforeValidator(_kinds)] = Field(default={})

    @property
    def gpu_here(self) -> bool:
        """Whether cells that load a model use a device of this machine."""
        return self.device != "cpu" and "gpu" not in self.launch


def read() -> Machines:
    """The block. Raises UserError."""
    return params_file.free("runtime", Machines)
