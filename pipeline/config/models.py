"""Block pretrain of params.yaml: models, what they start from, how they are trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.params import Count, Day, Line, Name, Params, Positive, Share

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
    """The shape of a decoder of the Llama kind, under the names of its config.json or near them."""

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
