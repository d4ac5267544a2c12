"""Block teachers of params.yaml: who answers, what it costs, how it is asked."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.params import (
    Count,
    Engine,
    Line,
    Name,
    NonNegative,
    Params,
    Positive,
    Share,
    Url,
    Variable,
)


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
