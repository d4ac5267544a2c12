"""Block runtime as params.yaml has it: with what the runner reads of it, and no stage does."""

import shlex
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config import params_file
from pipeline.config.params import Runtime
from pipeline.processes.launch.kinds import GPU, KINDS, Kind


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


def _stages(shares: Any) -> Any:
    unknown = [str(x) for x in shares if x not in GPU] if isinstance(shares, dict) else []
    if unknown:
        raise PydanticCustomError(
            "stage",
            "stages that load a model, {stages}, and {unknown} is none",
            {"stages": ", ".join(sorted(GPU)), "unknown": ", ".join(unknown)},
        )
    return shares


Share = Annotated[float, Field(gt=0, le=1)]
Prefix = Annotated[str, Field(pattern=r"\S", max_length=1000), AfterValidator(_words)]


class Machines(Runtime):
    # the words before a stage's command, for each kind of cell that is to start elsewhere, as
    # {gpu: "srun -p gpu --gres=gpu:1"}
    launch: Annotated[dict[Kind, Prefix], BeforeValidator(_kinds)] = Field(default={})

    # the share of a card that a cell of a stage takes on a worker, as {evaluate: 0.5}: two of them
    # share one. A stage that is not named here has its cards to itself
    gpu_share: Annotated[dict[str, Share], BeforeValidator(_stages)] = Field(default={})

    @model_validator(mode="after")
    def _one_card(self) -> "Machines":
        if self.gpu_share and self.tensor_parallel * self.data_parallel > 1:
            raise PydanticCustomError(
                "share",
                "no gpu_share where tensor_parallel or data_parallel is above 1: a copy of a "
                "model that needs several cards shares none",
            )
        return self

    @property
    def gpu_here(self) -> bool:
        """Whether cells that load a model use a device of this machine."""
        return self.device != "cpu" and "gpu" not in self.launch


def read() -> Machines:
    """The block. Raises UserError."""
    return params_file.free("runtime", Machines)


def cards(runtime: Machines, group: str) -> float:
    """Of a worker that a cell of this group, of kind gpu, takes."""
    if runtime.device == "cpu":
        return 0
    whole = runtime.tensor_parallel * runtime.data_parallel
    return runtime.gpu_share.get(group, runtime.gpu_share.get(group.partition("-")[0], whole))
