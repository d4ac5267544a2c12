"""Memory and arithmetic of one stage, from sizes of models and numbers of tokens.

Counted by hand from what the code keeps: the comments name where. Memory is bytes by part, at the
stage's worst moment; arithmetic is floating-point operations, and bytes that decoding has to read.
Norms, biases and what a library takes for itself are left out.
"""

from typing import NamedTuple

from pipeline.config import params
from pipeline.config.method import Lora
from pipeline.engines.vllm.engine import CPU_CACHE
from pipeline.plan.model_shapes import Size

# of pipeline/engines/scoring_pass.py: LOGITS_PER_CHUNK in float32, and tokens of a forward pass
CHUNK_BYTES = 4 << 24
CPU_HIDDEN, GPU_TOKENS, HELD = 1 << 21, 1 << 13, 4
SAMPLING = 28  # bytes for each logit of a step: logits, masked, softmax, in float64, its sum
PROCESS = 0.36e9  # bytes of a process that has imported torch and transformers, measured
AT_ONCE = 8  # responses that an engine with less room for their keys and values is too small for
Parts = dict[str, float]


class Rows(NamedTuple):
    """Responses that are sampled or read, or sequences that are trained on."""

    number: int
    prompt: float  # tokens of a prompt
    new: float  # tokens of a response

    @property
    def length(self) -> float:
        return self.prompt + self.new

    def together(self, batch_tokens: int) -> int:
        """Rows of a forward pass, as pipeline/engines/hf.py forms batches."""
        return int(max(2, min(self.number, batch_tokens // max(self.length, 1))))


class Cost(NamedTuple):
    """Arithmetic of a cell."""

    operations: float = 0.0
    moved: float = 0.0  # bytes of weights, keys and values that decoding reads
    steps: float = 0.0  # of decoding with transformers, each of which takes its time on a GPU

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        return Cost(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def shared(self, processes: int) -> "Cost":
        return Cost(*(one / processes for one in self))


# sampling


def sampling(size: Size, rows: Rows, engine: str, runtime: params.Runtime) -> Parts:
    """An engine that continues `rows`, per GPU."""
    if engine == "vllm":
        share = runtime.tensor_parallel
        room: float = size.cached * min(rows.number, AT_ONCE) * rows.length
        width = size.width
        if runtime.device == "cpu":
            room, width = CPU_CACHE, 4
        return {"weights": size.weights * width / share, "KV cache": room / share}
    rows_B = rows.together(runtime.batch_tokens)
    return {
        "weights": size.weights * size.width,
        "head in float32": _float_head(size),
        # a layer's at a time are moved to where they have room
        "KV cache": rows_B * rows.length * size.cached * (1 + 1 / size.shape.layers),
        "logits of a step": rows_B * size.shape.vocabulary * SAMPLING,
    }


def sampled(size: Size, rows: Rows, engine: str, runtime: params.Runtime) -> Cost:
    """The cost on each GPU of sampling `rows`, as if several GPUs lost nothing in communication."""
    body = 2 * size.body + size.attention(rows.length / 2)
    operations = rows.number * (rows.length * body + rows.new * 2 * size.head)
    rows_B = rows.together(runtime.batch_tokens)
    steps = -(-rows.number // rows_B) * rows.new
    weights = size.body * size.width + size.head * max(size.width, 4 if engine == "hf" else 0)
    cached = rows.number * rows.new * (rows.prompt + rows.new / 2) * size.cached
    if engine == "hf":
        return Cost(operations, steps * weights + cached, steps)
    several = runtime.tensor_parallel * runtime.data_parallel
    return Cost(operations, steps * weights + cached).shared(several)


# the exact pass


def exact(size: Size, rows: Rows, runtime: params.Runtime) -> Parts:
    """A pass over finished responses behind their prompts, in slices of logits."""
    most = CPU_HIDDEN // size.shape.hidden if runtime.device == "cpu" else GPU_TOKENS
    most = min(most, runtime.batch_tokens)
    held = rows.together(min(HELD * most, runtime.batch_tokens)) * rows.length
    tokens = max(rows.length, min(most, held))
    return {
        "weights": size.weights * size.width,
        "head in float32": _float_head(size),
        "activations": tokens * _passing(size),
        # of the prompts that rows share; of the rows behind them a layer's at a time, made twice
        "KV cache": (tokens + 2 * held / size.shape.layers) * size.cached,
        "slices of logits": 5 * CHUNK_BYTES,
    }


def read(size: Size, rows: Rows, each: int = 1) -> Cost:
    """The cost of reading `rows`, of which `each` share a prompt that is read once."""
    body = 2 * size.body + size.attention(rows.length / 2)
    once = rows.prompt / each + rows.new
    return Cost(rows.number * (once * body + rows.new * 2 * size.head))


# training


class Training(NamedTuple):
    """The sizes that decide the cost of an optimizer step."""

    rows: Rows
    micro_batch: int
    lora: Lora | None
    moment_bits: int
    # steps from one that measures the norm of each of two terms to the next; 0: none does
    norms_every: int = 0
    teacher: Size | None = None  # whose logits are read
    reference: bool = False
    processes: int = 1  # that share the models and the work


def training(size: Size, t: Training, runtime: params.Runtime) -> Parts:
    """pipeline/training/gradients.py with the optimizer of pipeline/training/optimizer.py; of one
    process."""
    longest = t.rows.length
    tokens = max(longest, min(t.micro_batch * longest, runtime.batch_tokens))
    moments, sets = 2 * t.moment_bits / 8, 2 if t.norms_every else 1
    if t.lora is None:
        # float32 weights, their gradient and one that is on its way, moments; another gradient
        # where the signal's is kept beside
        found: Parts = {"weights": size.weights * 4}
        found["gradients"] = size.weights * 4 * (sets + 1) + sets * size.head * 4
        found["moments"] = size.weights * moments
        found["weights cast to bfloat16"] = size.body * 2 if size.width == 2 else 0
    else:
        adapter = size.adapter(t.lora)
        found = {"weights": size.weights * size.width, "head in float32": _float_head(size)}
        found["adapter"] = adapter * (4 * (sets + 2) + moments)
    if t.reference and t.lora is None:  # with an adapter it is the student
        found["reference"] = size.weights * size.width + _float_head(size)
    if t.teacher:
        found["teacher"] = t.teacher.weights * t.teacher.width + _float_head(t.teacher)
    frozen = bool(t.teacher) + t.reference
    if t.processes > 1:  # dealt out, but for the layer at work and the heads, in float32
        found = {name: parts / t.processes for name, parts in found.items()}
        found["gathered"] = 4 * max(_gathered(one) for one in (size, t.teacher) if one)
    found["activations"] = tokens * _kept(size, t.lora, runtime.gradient_checkpointing)
    found["slices of logits"] = (8 + 3 * frozen) * CHUNK_BYTES
    return found


def _gathered(size: Size) -> float:
    return size.body / size.shape.layers + size.head


def trained(size: Size, t: Training, runtime: params.Runtime) -> Cost:
    """A process's share of a forward pass, a backward pass, and what is read beside; an adapter
    spares the gradients of the frozen weights. A step that measures norms goes back twice."""
    passes = 1 + 1 / t.norms_every if t.norms_every else 1
    body = 2 * size.body + size.attention(t.rows.length / 2)
    backward = passes * body * ((1 if t.lora else 2) + runtime.gradient_checkpointing)
    operations = t.rows.length * (body * (1 + t.reference) + backward)
    operations += t.rows.new * 2 * size.head * (1 + passes * (1 if t.lora else 2) + t.reference)
    found = Cost(t.rows.number * operations)
    if t.teacher is not None:
        found = found + read(t.teacher, t.rows)
    return found.shared(t.processes)


def pretraining(size: Size, rows: Rows, runtime: params.Runtime) -> Parts:
    """stages/pretrain.py: every weight, whole logits; without a step, the weights alone."""
    if rows.number == 0:
        return {"weights": size.weights * size.width}
    tokens = rows.number * rows.length
    return {
        "weights": size.weights * 4,
        "gradients": size.weights * 8,
        "moments": size.weights * 8,
        "activations": tokens * _kept(size, None, recomputed=False),
        "whole logits": tokens * size.shape.vocabulary * 14,
    }


def with_process(parts: Parts, runtime: params.Runtime, *sizes: Size) -> Parts:
    """Add, on a CPU, the process and the files that it maps, until the system drops their pages.

    A GPU sees neither.
    """
    if runtime.device != "cpu":
        return parts
    mapped = float(sum(size.weights * size.width for size in sizes))
    return {**parts, "process": PROCESS, "files that are mapped": mapped}


def _float_head(size: Size) -> int:
    """Policy.head's copy, where the checkpoint is coarser."""
    return size.head * 4 if size.width < 4 else 0


def _passing(size: Size) -> float:
    """Bytes a token that one layer holds, where nothing is kept for a backward pass."""
    shape = size.shape
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return (4 * shape.hidden + 2 * queries + 2 * keys + 3 * shape.mlp) * size.width


def _kept(size: Size, lora: Lora | None, recomputed: bool) -> float:
    """Bytes a token that a backward pass needs; recomputed layers keep their input alone.

    Products of matrices are in the checkpoint's dtype, what runs between the layers too with an
    adapter, else in float32. Attention keeps no scores.
    """
    shape = size.shape
    between = size.width if lora else 4
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = 9 * shape.hidden * between + 3 * (queries + keys) * 4 + 4 * shape.mlp * size.width
    layers = shape.layers * shape.hidden * between + layer if recomputed else shape.layers * layer
    return layers + 5 * shape.hidden * 4  # the last states and their gradients, pipeline/training
