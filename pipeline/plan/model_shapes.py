"""Sizes of models: what a decoder of the Llama kind holds and computes, counted from its shape.

A shape comes from the checkpoint's config.json where it is there, from params for a model that
this experiment makes, from `shape` of its entry in pretrain.models, or else from TABLE.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.method import Lora
from pipeline.config.models import (
    LLAMA_CONTEXT,
    GgufInit,
    HubInit,
    LlamaInit,
    ModelInit,
    PretrainModel,
    Shape,
)
from pipeline.config.problems import TaskPrepare
from pipeline.core.errors import UserError
from pipeline.engines import checkpoints

Models = dict[str, PretrainModel]  # entries of pretrain.models
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
READ = "copies of its config.json in public repositories, read 2026-11-25"
TABLE = {  # of models that profiles name: layers, hidden, heads, kv_heads, head_dim, mlp, ...
    "Qwen/Qwen3-0.6B": (28, 1024, 16, 8, 128, 3072, 151936, True),
    "Qwen/Qwen3-1.7B": (28, 2048, 16, 8, 128, 6144, 151936, True),
    "Qwen/Qwen3-4B": (36, 2560, 32, 8, 128, 9728, 151936, True),
    "Qwen/Qwen3-8B": (36, 4096, 32, 8, 128, 12288, 151936, False),
    "Qwen/Qwen3-32B": (64, 5120, 64, 8, 128, 25600, 151936, False),
    "SmolLM2-135M-Instruct.Q4_1.gguf": (30, 576, 9, 3, 64, 1536, 49152, True),
}
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Size(NamedTuple):
    """A model: its shape, the bytes of a weight in its checkpoints, and where the shape is from."""

    shape: Shape
    width: int
    source: str

    @property
    def weights(self) -> int:
        """Weights, an embedding that is also the head counted once; norms and biases left out."""
        embeddings = 1 if self.shape.tied else 2
        return self.body + embeddings * self.shape.vocabulary * self.shape.hidden

    @property
    def body(self) -> int:
        """The weights in the layers: each is read and multiplied once for a token."""
        return self.shape.layers * sum(a * b for a, b in _linear(self.shape).values())

    @property
    def head(self) -> int:
        return self.shape.vocabulary * self.shape.hidden

    @property
    def cached(self) -> int:
        """Bytes of KV cache of a token."""
        return 2 * self.shape.layers * self.shape.kv_heads * self.shape.head_dim * self.width

    def attention(self, context: float) -> float:
        """Floating-point operations of a token's attention to `context` tokens."""
        return 4 * self.shape.layers * self.shape.heads * self.shape.head_dim * context

    def adapter(self, lora: Lora) -> int:
        """Weights of an adapter."""
        wanted = LINEAR if lora.targets == "all-linear" else lora.targets
        linear = _linear(self.shape)
        return self.shape.layers * sum(lora.rank * sum(linear.get(x, (0, 0))) for x in wanted)


def _linear(shape: Shape) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of a layer's matrices."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sides = (
        (shape.hidden, queries),
        (shape.hidden, keys),
        (shape.hidden, keys),
        (queries, shape.hidden),
        (shape.hidden, shape.mlp),
        (shape.hidden, shape.mlp),
        (shape.mlp, shape.hidden),
    )
    return dict(zip(LINEAR, sides, strict=True))


def size(models: Models, prepare: TaskPrepare, name: str, folder: Path) -> Size:
    """The size of the entry `name`, whose cell is `folder`. Raises UserError."""
    model = models[name]
    config = folder / "checkpoint" / "config.json"
    if config.is_file():
        shape, source = of_config(json.loads(config.read_text(encoding="utf-8"))), str(config)
    elif model.shape is not None:
        shape, source = model.shape, f"pretrain.models.{name}.shape"
    else:
        shape, source = _of_init(models, prepare, name, folder)
    return Size(shape, BYTES[model.dtype], source)


def context(models: Models, name: str) -> int | None:
    """Tokens of the longest row of a model, where a config.json or its init says it."""
    match models[name].init:
        case LlamaInit():
            return LLAMA_CONTEXT
        case ModelInit() as init:
            return context(models, init.name)
        case HubInit() as init:
            config = Path(init.name) / "config.json"
            if config.is_file():
                return checkpoints.context_of(json.loads(config.read_text(encoding="utf-8")))
    return None


def _of_init(models: Models, prepare: TaskPrepare, name: str, folder: Path) -> tuple[Shape, str]:
    match models[name].init:
        case ModelInit() as init:
            found = size(models, prepare, init.name, folder)  # the same shape, wherever it lies
            return found.shape, f"{found.source}, which it starts from"
        case LlamaInit() as init:
            return _of_llama(prepare, init), f"pretrain.models.{name}.init"
        case GgufInit() as init:
            known = init.file
        case HubInit() as init:
            known = init.name
            config = Path(known) / "config.json"
            if config.is_file():
                return of_config(json.loads(config.read_text(encoding="utf-8"))), str(config)
    if known not in TABLE:
        raise UserError(
            f"pretrain.models.{name}: no shape is known of {known}, wanted one of {sorted(TABLE)}. "
            "Add `shape: {layers, hidden, heads, kv_heads, head_dim, mlp, vocabulary, tied}`, as "
            "its config.json has them; it changes no cell."
        )
    values = dict(zip(Shape.model_fields, TABLE[known], strict=True))
    return Shape.model_validate(values), READ


def _of_llama(prepare: TaskPrepare, init: LlamaInit) -> Shape:
    from pipeline import tasks

    vocabulary = len(set(tasks.load(prepare).alphabet())) + 2  # and padding, end
    return Shape(
        layers=init.layers,
        hidden=init.hidden,
        heads=init.heads,
        kv_heads=init.heads,
        head_dim=init.hidden // init.heads,
        mlp=init.mlp,
        vocabulary=vocabulary,
        tied=True,
    )


def of_config(config: dict[str, Any]) -> Shape:
    """The shape in a config.json of transformers. Raises UserError if it is of another kind."""
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return Shape(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            mlp=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise UserError(
            f"config.json: lacks {error}, so the model's shape is not known. State `shape` in its "
            "entry of pretrain.models."
        ) from error
