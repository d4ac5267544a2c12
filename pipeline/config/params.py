"""Types that each block of params.yaml is made of, and the blocks of a whole run."""

import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from pipeline.config.renamed import renamed
from pipeline.core.errors import short

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Mode = Literal["completions", "prefill", "instruct"]
Problem = Literal["own", "another"]
Transport = Literal["live", "batch"]
Library = Literal["tensorboard", "wandb", "mlflow", "trackio"]  # of pipeline/training/trackers/
Engine = Literal["hf", "vllm"]
Exact = Literal["engine", "pass"]
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of adapters that vLLM 0.32 has room for
METHOD = "omniopd"  # the arm that the base blocks are, and that experiment.branch branches off
Named = Literal["base", "shuffled-scores", "opd", "sft", "imitate-forks"]  # omniopd minus these
Resource = Literal["teacher_output_tokens", "usd", "student_tokens", "optimizer_steps"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
Line = Annotated[str, Field(pattern=r"^\S(.*\S)?$", max_length=1000)]  # of text, not empty


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://\S+", text):
        raise PydanticCustomError(
            "url",
            "one that begins with http:// or https://. Write http://{rest}",
            {"rest": text.rpartition("//")[2]},
        )
    return text


Url = Annotated[str, Field(max_length=1000), AfterValidator(_url)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]  # of the environment
Device = Annotated[str, Field(pattern=r"^(cpu|mps|(cuda|xpu)(:[0-9]+)?)$")]  # as torch names it
Decay = Annotated[float, Field(ge=0, lt=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# of a variant: one of ours, or extensions.NAME, a file of the experiment's own
Chosen = Annotated[str, Field(pattern=r"^([a-z][a-z0-9-]*|extensions\.[a-z][a-z0-9_-]*)$")]
Metric = Chosen  # of similarity.METRICS; listed there, so that one more reruns only what loads it
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Scheduler = Chosen  # of schedulers.SCHEDULERS
Kept = Annotated[str, Field(pattern=r"^(all|last|every:[1-9][0-9]*)$")]  # checkpoints of rounds


class Params(BaseModel):
    """Base of every block: unknown keys are refused, values are not coerced, nothing mutates."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def keys() -> set[str]:
    """The names of all settings, for who has written one a little differently."""
    found, queue = set[str](), [Params]
    while queue:
        model = queue.pop()
        found |= set(model.model_fields)
        queue += model.__subclasses__()
    return found


def explained(error: Any, block: str = "") -> str:
    """The message of a pydantic error at a key of `block`: found, wanted, what to do."""
    key = ".".join(str(part) for part in (block, *error["loc"]) if part != "")[:200]
    match error["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(str(error["loc"][-1]), keys(), 1)
            asked = f" Is it {near[0]}?" if near else ""
            return f"{key}: unknown key. Remove it or correct its name.{asked}"
        case "missing":
            return f"{key}: missing. Add it; `omniopd profile default` writes a complete file."
        case _ if error["loc"][-1:] == ("api_key_env",):  # it may be the key itself
            wanted = "the name of an environment variable that holds the key"
            return f"{key}: found no such name, wanted {wanted}. Write its name."
        case _:
            said = f"{key}: found {short(error['input'])}, wanted: {error['msg']}"
            return f"{said.rstrip('.')}. Correct it."


class Experiment(Params):
    student: Name  # the entry of pretrain.models that every arm starts from
    rounds: Count
    arms: tuple[Name, ...]
    seeds: tuple[int, ...]
    # rounds that one cell holds in one process; the result is the same. See
    # pipeline/plan/step_cells.py
    steps_per_cell: Count = 1
    match: Resource | None = None  # cap every arm that uses it at the same amount a round
    budget: Positive | None = None  # of it, an arm and round; null: the smallest of their ceilings
    branch: tuple[Name, ...] = ()  # controls that each omniopd round is also trained with
    # rounds whose trained checkpoint and moments stay on the disk; of no cell
    keep_checkpoints: Annotated[Kept, renamed("keep_checkpoints", "keep")] = "all"
    notes: tuple[str, ...] = ()  # sentences that the report prints under its table
    # gain of omniopd over an arm that the verdicts test, percent; null: what the paper claims
    claims: dict[Named, Positive] | None = None


class Runtime(Params):
    """How to compute, never what: not part of any cell. Untracked."""

    threads: Count = 1  # torch threads of a process
    device: Device = "cpu"
    batch_tokens: Count = 65536  # tokens (padding included) that one forward pass may hold
    keep_seconds: NonNegative = 60.0  # between what a stage keeps to go on from; 0: nothing
    gradient_checkpointing: bool = False  # train: less memory, a third more time
    log_to: Library | tuple[Library, ...] = ()  # train: the metrics of each step, while it runs
    # run the code that a model brings along, where transformers and vLLM have no class for it
    trust_remote_code: bool = False
    # for `omniopd estimate`: what a device sustains, until finished cells have shown it
    tflops: Positive | None = None
    gb_per_s: Positive | None = None  # of its memory
    # experiment.keep_checkpoints: drop also from a cache outside this folder, which other
    # projects may use
    drop_shared: bool = False
    # engine vllm:
    tensor_parallel: Count = 1  # GPUs that share one copy of a model
    data_parallel: Count = 1  # copies, each with its own share of the requests
    # share of a device's memory that a copy may take; null: see pipeline/engines/vllm/engine.py
    engine_memory: Annotated[float, Field(gt=0, le=1)] | None = None
