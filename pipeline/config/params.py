"""The blocks of params.yaml: names, types and ranges of every number that a stage may use."""

import difflib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.core import extensions
from pipeline.core.chosen import chosen, file_of
from pipeline.core.errors import short

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Mode = Literal["completions", "prefill", "instruct"]
Problem = Literal["own", "another"]
Transport = Literal["live", "batch"]
Engine = Literal["hf", "vllm"]
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
TaskName = Literal["arithmetic", "reasoning-gym", "math", "code", "prompts"]  # a file each
# of a variant: one of ours, or extensions.NAME, a file of the experiment's own
Chosen = Annotated[str, Field(pattern=r"^([a-z][a-z0-9-]*|extensions\.[a-z][a-z0-9_-]*)$")]
Metric = Chosen  # of similarity.METRICS; listed there, so that one more reruns only what loads it
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Scheduler = Chosen  # of schedulers.SCHEDULERS


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
    """What pydantic says of a key of `block`: found, wanted, what to do."""
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
    keep: Annotated[str, Field(pattern=r"^(all|last|every:[1-9][0-9]*)$")] = "all"
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
    # run the code that a model brings along, where transformers and vLLM have no class for it
    trust_remote_code: bool = False
    # for `omniopd estimate`: what a device sustains, until finished cells have shown it
    tflops: Positive | None = None
    gb_per_s: Positive | None = None  # of its memory
    # experiment.keep: drop also from a cache outside this folder, which other projects may use
    drop_shared: bool = False
    # engine vllm:
    tensor_parallel: Count = 1  # GPUs that share one copy of a model
    data_parallel: Count = 1  # copies, each with its own share of the requests
    # rollout: top log-probabilities of each token from which the engine's own entropies are
    # estimated, to say in run.json how many forks they would have put elsewhere; 0: none
    engine_entropies: Annotated[int, Field(ge=0, le=20)] = 0
    # share of a device's memory that a copy may take; null: see pipeline/engines/vllm/engine.py
    engine_memory: Annotated[float, Field(gt=0, le=1)] | None = None


class LocalTeacher(Params):
    """A checkpoint that this experiment pretrains or imports; it has logits."""

    kind: Literal["local"]
    model: Name  # an entry of pretrain.models
    engine: Engine = "hf"  # that continues its prefixes; its logits are read with transformers
    white_box: bool = True  # false: treat it as an API, refuse objectives that read its logits
    # engine vllm: it outlives the stages of a run; null: above 3 billion parameters. Untracked
    resident: bool | None = None


class Price(Params):
    """Dollars for a million tokens, at the live price."""

    input: NonNegative
    output: NonNegative
    batch: Share = 0.5  # of the live price, where the batch service is used


class HostedTeacher(Params):
    """A teacher behind HTTP: text in, text out. Base of the kinds below.

    Only `kind`, `provider`, `model` and `tokenizer` can change an answer; the rest is untracked.
    """

    model: Line  # the provider's id of it, a dated one where there is one
    base_url: Url | None = None  # null is the SDK's own default
    api_key_env: Variable | None = None  # name of the environment variable that holds the key
    price: Price | None = None  # null: dollars are not counted, and max_usd is refused
    concurrency: Count = 16  # requests in flight
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None  # prompt and completion
    timeout_seconds: Positive = 120.0  # of one request
    tries: Count = 10  # of one request, after named transient errors
    samples_per_request: Count | None = None  # null: as many as the provider takes
    context: Count | None = None  # tokens of a prompt with its answer; null: the server says


class OpenAICompatibleTeacher(HostedTeacher):
    kind: Literal["openai_compatible"]
    provider: Literal[
        "vllm",
        "sglang",
        "llama.cpp",
        "other",
        "openai",
        "openrouter",
        "deepseek",
        "mistral",
        "groq",
    ] = "other"
    tokenizer: str | None = None  # student, a folder or a hub name; renders mode completions


class AnthropicTeacher(HostedTeacher):
    kind: Literal["anthropic"]

    @property
    def provider(self) -> str:
        return "anthropic"

    @property
    def tokenizer(self) -> None:
        return None


class GoogleTeacher(HostedTeacher):
    kind: Literal["google"]

    @property
    def provider(self) -> str:
        return "google"

    @property
    def tokenizer(self) -> None:
        return None


Hosted = OpenAICompatibleTeacher | AnthropicTeacher | GoogleTeacher
Teacher = Annotated[LocalTeacher | Hosted, Field(discriminator="kind")]


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


LLAMA_CONTEXT = 256  # tokens of a row that a model of kind llama reads


class LlamaInit(Params):
    """Random weights, Llama architecture, the task's own character vocabulary."""

    kind: Literal["llama"]
    hidden: Count
    layers: Count
    heads: Count
    mlp: Count

    @model_validator(mode="after")
    def _heads_divide(self) -> "LlamaInit":
        if self.hidden % (2 * self.heads):
            raise ValueError("hidden, a multiple of twice the heads")
        return self


class GgufInit(Params):
    """Weights in a GGUF file inside an installed Python package, dequantised."""

    kind: Literal["gguf"]
    package: Line
    file: Line


class HubInit(Params):
    """A Hugging Face model by hub name or local directory, at a pinned revision."""

    kind: Literal["hub"]
    name: Line
    revision: Line | None = None
    # own (or null): the checkpoint's; else the text of one, in Jinja
    chat_template: str | None = None
    # written into the template that checkpoints keep, so that whoever reads them renders the same;
    # off: an empty think block belongs to the prompt. null: what the template does when told off
    thinking: bool | None = None
    # that a template reads for today, written into it; null: pipeline/engines/chat/templates.py's
    date: Day | None = None


class ModelInit(Params):
    """Another entry of pretrain.models, trained further."""

    kind: Literal["model"]
    name: Name


Init = Annotated[LlamaInit | GgufInit | HubInit | ModelInit, Field(discriminator="kind")]


class Habits(Params):
    """How worked solutions err; all zero is correct work."""

    drop_carry: Share = 0.0  # probability that a carry is forgotten
    off_by_one: Share = 0.0  # probability that a column's sum is one too large


class Shape(Params):
    """Of a decoder of the Llama kind, under the names of its config.json or near them."""

    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    mlp: Count
    vocabulary: Count
    tied: bool  # the head is the embedding


class PretrainModel(Params):
    init: Init
    shape: Shape | None = (
        None  # of a model that is not here yet, for `omniopd estimate` and train.lora; untracked
    )
    steps: Annotated[int, Field(ge=0)]
    batch_size: Count
    lr: Positive
    habits: Habits = Habits()
    datasets: tuple[str, ...] | None = None  # tasks to learn from; null is all
    dtype: Literal["float32", "bfloat16"] = "float32"


class Pretrain(Params):
    per_seed: bool  # one base student for each of experiment.seeds, instead of one for all
    models: dict[Name, PretrainModel]


class Rollout(Params):
    engine: Engine
    prompts_per_round: Count
    samples_per_prompt: Count
    max_new_tokens: Count
    temperature: NonNegative  # 0 is refused with its reason, by pipeline/plan/trainable.py
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0)]  # 0 is off


class Forks(Params):
    scheduler: Scheduler
    max_forks: Count
    chunk_tokens: Count
    # embedding-variance: of the student itself, from each place that may become a fork
    continuations: Annotated[int, Field(ge=2)] = 4


class Teach(Params):
    teacher: Name | tuple[Name, ...]  # several: arm multi-teacher, see prior.combine
    samples: Count
    temperature: NonNegative  # as rollout.temperature
    continuation: Mode
    # whose messages the teacher sees before the student's text; another: arm wrong-teacher
    problem: Problem = "own"
    max_attempts: Count  # draws of one sample, where a draw fails
    max_failure_rate: Share
    epoch: Annotated[int, Field(ge=0)]
    # not part of a cell:
    replay: bool = False  # never ask, name the misses
    transport: Transport = "live"  # batch: a provider's batch service, slower at half the price
    max_usd: NonNegative | None = None  # of everything this project ever bought
    max_requests: Annotated[int, Field(ge=0)] | None = None
    accept_terms: str | tuple[str, ...] = ()  # providers whose terms you have read and accept

    @property
    def teachers(self) -> tuple[str, ...]:
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


class Score(Params):
    metric: Metric
    source: Literal["similarity", "shuffled", "zero"]
    within: Literal["round", "prompt"] = "round"  # shuffled: whose forks change places
    allow_flat: bool
    # embedding: share of the chunks and answers that may hold characters which it does not know;
    # above it the stage stops, below it warns. Of metrics that see every text it is no setting
    max_unseen: Share = 0.05


class Prior(Params):
    alpha: NonNegative
    source: Literal["scores", "constant", "random", "none", "teacher"]
    controls: Name | None = None  # the arm whose targets constant and random are drawn from
    combine: Literal["mean", "above-median"] | None = None  # several teachers: of k_sem/N, or share


CANDIDATES = ("exact", "edit", "prefix", "rouge1", "embedding", "token-edit")


class Calibrate(Params):
    """What stage calibrate looks at; of no arm's training. The block may be left out."""

    metrics: tuple[Metric, ...] = CANDIDATES
    # null: a quarter, half and the whole of forks.chunk_tokens, at least 2
    chunk_tokens: tuple[Count, ...] | None = None
    forks: Count = 400  # most of a cell that are looked at; the table says how many
    alphas: tuple[NonNegative, ...] = (0.5, 1.0, 2.0, 5.0)  # of the prior: how far each shrinks
    rounds: Literal["first", "all", "none"] = "first"

    def lengths(self, chunk_tokens: int) -> tuple[int, ...]:
        """Chunk lengths that are tried, ascending."""
        tried = self.chunk_tokens or (chunk_tokens // 4, chunk_tokens // 2, chunk_tokens)
        shortest = 1 if self.chunk_tokens else min(2, chunk_tokens)
        return tuple(sorted({max(shortest, tokens) for tokens in tried}))


Baseline = Literal["none", "batch", "prompt", "teacher-agreement"]


class Lora(Params):
    """Train an adapter beside frozen weights, through peft; one for all rounds, never merged."""

    rank: Count
    alpha: Positive  # the adapter's product is scaled by alpha / rank
    # layers that get one, by their last name
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)]


OBJECTIVES = (
    *("omniopd", "opd", "opd-sampled", "opd-forks", "gkd", "sft", "imitate-forks", "grpo", "rft"),
)


def _objective(name: str) -> str:
    if name not in OBJECTIVES and not extensions.named(name):
        wanted = f"one of {', '.join(OBJECTIVES)}, or extensions.NAME, a file of your own"
        raise PydanticCustomError("objective", "{wanted}", {"wanted": wanted})
    return name


class Train(Params):
    objective: Annotated[str, AfterValidator(_objective)]
    beta: NonNegative
    lr: Positive
    batch_size: Count  # responses in an optimizer step
    micro_batch_size: Count  # responses in a forward pass
    epochs: Count
    reduce: Literal["response_sum", "token_mean"]
    correction: Literal["none", "ratio"]
    optimizer: Literal["carry", "reset"]
    betas: tuple[Decay, Decay]
    warmup_steps: Annotated[int, Field(ge=0)]
    clip: Positive
    answers: Count = 1  # imitate-forks: continuations of each fork that are imitated
    jsd_beta: Share = 0.5  # gkd: weight of the teacher in the mixture; 0 forward KL, 1 reverse
    # an extension, omniopd only: taken off pi_hat, its mean over the round's chunks or over the
    # prompt's; or how much the teacher agrees with itself at the fork
    baseline: Baseline = "none"
    anchor: Literal["outside", "all"] = "outside"  # of the chunks, or on every response token
    # none: every weight is trained; null: as pipeline/plan/adapter_default.py has it, an adapter
    # above 0.5B
    lora: Lora | Literal["none"] | None = None
    moment_bits: Literal[8] | None = None  # of Adam's moments, through bitsandbytes; null: 32
    # not part of a cell:
    processes: Count = 1  # that share the models and the work, each with a GPU where there are any

    @property
    def adapter(self) -> Lora | None:
        """Of settings that pipeline/plan/adapter_default.py has resolved."""
        return None if self.lora == "none" else self.lora


class Evaluate(Params):
    split: Literal["dev", "test"]
    problems: Count
    samples: Count
    temperature: Positive
    max_new_tokens: Count
    rounds: Literal["last", "all"]
    engine: Engine = "hf"
