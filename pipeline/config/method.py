"""The blocks of params.yaml that a round is made of, from rollout to evaluate."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.params import (
    Chosen,
    Count,
    Decay,
    Engine,
    Exact,
    Metric,
    Mode,
    Name,
    NonNegative,
    Params,
    Positive,
    Problem,
    Scheduler,
    Share,
    Transport,
)
from pipeline.config.renamed import renamed


class Rollout(Params):
    engine: Engine
    prompts_per_round: Count
    samples_per_prompt: Count
    max_new_tokens: Count
    temperature: NonNegative  # 0 is refused with its reason, by pipeline/plan/checks/trainable.py
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0)]  # 0 is off
    # engine vllm's log-probabilities and entropies. engine: as it samples, some rows read again;
    # pass: a pass over all it wrote. null: engine where both are float32 (pipeline/plan/blocks.py)
    exact: Exact | None = None


class Placed(Params):
    """The keys of block forks that every scheduler reads."""

    scheduler: Scheduler
    max_forks: Count
    chunk_tokens: Count


class Continued(Params):
    """The key of scheduler embedding-variance, whose student continues itself."""

    continuations: Annotated[int, Field(ge=2)] = 4  # of each place that may become a fork


class Gate(Params):
    """Which prompts are audited: those that the teacher itself solves often enough."""

    samples: Count = 2  # whole solutions of each prompt, bought and graded first
    least: Share = 0.5  # share of them that has to be right


class Forks(Continued, Placed):
    """Block forks."""

    gate: Gate | None = None  # null: every prompt


class Agree(Params):
    """When enough answers were bought at a fork."""

    agree: Annotated[float, Field(gt=0, le=1)]  # share of them that are the most frequent one


class Adaptive(Params):
    """How many answers a fork gets, by those that it has: pipeline/method/adaptive.py."""

    first: Annotated[int, Field(ge=2)]  # that each fork gets
    most: Count
    until: Agree

    @model_validator(mode="after")
    def _room(self) -> "Adaptive":
        if self.most <= self.first:
            raise PydanticCustomError("most", "more in most than first. Or write one number")
        return self


def _rule(found: object) -> str:
    """The tag of what is written for a number of answers: it stands in the key of an error."""
    return "{}" if isinstance(found, dict | Adaptive) else ""


class Answered(Params):
    """The keys of block teach that every cell of a teacher's answers has, but for its teacher."""

    samples: Annotated[
        Annotated[Count, Tag("")] | Annotated[Adaptive, Tag("{}")], Discriminator(_rule)
    ]
    temperature: NonNegative  # as rollout.temperature
    continuation: Mode
    max_attempts: Count  # draws of one sample, where a draw fails
    max_failure_rate: Share
    epoch: Annotated[int, Field(ge=0)]


class Bought(Params):
    """The keys of block teach that cannot change an answer: not part of a cell."""

    replay: bool = False  # never ask, name the misses
    transport: Transport = "live"  # batch: a provider's batch service, slower at half the price
    max_usd: NonNegative | None = None  # of everything this project ever bought
    max_requests: Annotated[int, Field(ge=0)] | None = None
    ahead: bool = True  # live, behind HTTP: buy while rollouts are still sampled
    accept_terms: str | tuple[str, ...] = ()  # providers whose terms you have read and accept


class Teach(Bought, Answered):
    """Block teach."""

    teacher: Name | tuple[Name, ...]  # several: arm multi-teacher, see prior.combine
    # whose messages the teacher sees before the student's text; another: arm wrong-teacher
    problem: Problem = "own"

    @property
    def most(self) -> int:
        """Answers that a fork has at most."""
        return self.samples.most if isinstance(self.samples, Adaptive) else self.samples

    @property
    def teachers(self) -> tuple[str, ...]:
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


Within = Literal["round", "prompt"]


class Compared(Params):
    """The keys of block score that every cell of scores has."""

    metric: Metric
    # outcome: whether an answer that runs to the end is right, in place of a similarity
    source: Literal["similarity", "shuffled", "zero", "outcome"]
    allow_flat: bool


class Score(Compared):
    """Block score."""

    within: Within = "round"  # shuffled: whose forks change places
    # embedding: share of the chunks and answers that may hold characters which it does not know;
    # above it the stage stops, below it warns. Of metrics that see every text it is no setting
    max_unseen: Share = 0.05


class PerAnswer(Params):
    """alpha in proportion to the answers: the prior keeps its share whatever their number."""

    per_answer: NonNegative  # alpha / N


class Weighed(Params):
    """The keys of block prior that its cells have as they are."""

    source: Literal["scores", "constant", "random", "none", "teacher", "shuffled-weights"]
    controls: Name | None = None  # the arm whose targets constant and random are drawn from
    combine: Literal["mean", "above-median"] | None = None  # several teachers: of k_sem/N, or share
    # what of a fork's evidence becomes the weight of its chunk: see pipeline/method/weight.py
    weight: Literal["posterior", "excess", "excess-posterior"] = "posterior"

    @property
    def of_scores(self) -> bool:
        """The weights come from this arm's own scores."""
        return self.source in ("scores", "shuffled-weights")


# tags, so that an error names one of the two: they stand in the key that it shows
Alpha = Annotated[
    Annotated[NonNegative, Tag("")] | Annotated[PerAnswer, Tag("{}")],
    Discriminator(lambda found: "{}" if isinstance(found, dict | PerAnswer) else ""),
]


class Prior(Weighed):
    alpha: Alpha

    def strength(self, samples: int) -> float:
        """alpha beside N = `samples` answers."""
        return self.alpha.per_answer * samples if isinstance(self.alpha, PerAnswer) else self.alpha


CANDIDATES = ("exact", "edit", "prefix", "rouge1", "embedding", "token-edit")


class Tried(Params):
    """The keys of block calibrate that its cells have as they are."""

    metrics: tuple[Metric, ...] = CANDIDATES
    forks: Count = 400  # most of a cell that are looked at; the table says how many
    alphas: tuple[NonNegative, ...] = (0.5, 1.0, 2.0, 5.0)  # of the prior: how far each shrinks


class Calibrate(Tried):
    """What stage calibrate looks at; of no arm's training. The block may be left out."""

    # null: a quarter, half and the whole of forks.chunk_tokens, at least 2
    chunk_tokens: tuple[Count, ...] | None = None
    rounds: Literal["first", "all", "none"] = "first"

    def lengths(self, chunk_tokens: int) -> tuple[int, ...]:
        """Chunk lengths that are tried, ascending."""
        tried = self.chunk_tokens or (chunk_tokens // 4, chunk_tokens // 2, chunk_tokens)
        shortest = 1 if self.chunk_tokens else min(2, chunk_tokens)
        return tuple(sorted({max(shortest, tokens) for tokens in tried}))


class Lora(Params):
    """Train an adapter beside frozen weights, through peft; one for all rounds, never merged."""

    rank: Count
    alpha: Positive  # the adapter's product is scaled by alpha / rank
    # layers that get one, by their last name
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)]


NormsEvery = Annotated[int, Field(ge=0)]  # steps between two that measure norms of terms; 0: none
NORMS_EVERY = 16


class Optimised(Params):
    """The keys of block train that every objective has."""

    objective: Chosen  # of objectives.OBJECTIVES
    lr: Positive
    batch_size: Count  # responses in an optimizer step
    micro_batch_size: Count  # responses in a forward pass
    epochs: Count
    reduce: Literal["response_sum", "token_mean"]
    optimizer: Literal["carry", "reset"]
    betas: tuple[Decay, Decay]
    warmup_steps: Annotated[int, Field(ge=0)]
    max_grad_norm: Annotated[Positive, renamed("max_grad_norm", "clip")]
    # none: every weight is trained; null: as pipeline/plan/adapter_default.py has it, an adapter
    # above 0.5B
    lora: Lora | Literal["none"] | None = None
    moment_bits: Literal[8] | None = None  # of Adam's moments, through bitsandbytes; null: 32

    @property
    def adapter(self) -> Lora | None:
        """Of settings that pipeline/plan/adapter_default.py has resolved."""
        return None if self.lora == "none" else self.lora


class Anchored(Params):
    """Keys of objectives with a second term, the KL to the round-0 checkpoint."""

    beta: NonNegative
    # outside of the chunks, or on every response token
    kl_scope: Annotated[Literal["outside", "all"], renamed("kl_scope", "anchor")] = "outside"


class Corrected(Params):
    """Keys of objectives whose tokens can be weighed by how far the student has moved."""

    importance_ratio: Annotated[Literal["none", "ratio"], renamed("importance_ratio", "correction")]

    @property
    def corrects(self) -> bool:
        return self.importance_ratio == "ratio"


class Shared(Params):
    """The key of block train that cannot change a result beyond rounding: not part of a cell."""

    processes: Count = 1  # that share the models and the work, each with a GPU where there are any


class Train(Optimised, Anchored, Corrected, Shared):
    """Block train, without the keys that single objectives add (pipeline/plan/blocks.py)."""

    norms_every: NormsEvery = NORMS_EVERY


Split = Literal["dev", "test"]


class Graded(Params):
    """The keys of block evaluate that every cell of graded answers has."""

    split: Split
    problems: Count
    samples: Count
    temperature: Positive
    max_new_tokens: Count
