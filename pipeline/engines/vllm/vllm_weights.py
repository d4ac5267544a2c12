"""Other weights for a running engine of vLLM, in place: what a start takes is saved.

vLLM reloads weights by itself, but leaves behind what was made of the old ones: the head of a tied
model as a CPU multiplies with it, and blocks of prompts that were read. What it cannot load it
passes over without a word, so what differs is refused before anything is touched.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from vllm import LLMEngine

Sizes = dict[str, tuple[str, tuple[int, ...]]]  # of a checkpoint's tensors: dtype and shape


def sizes(folder: Path) -> Sizes:
    """The names, dtypes and shapes of a checkpoint's tensors, from the headers of its files."""
    found: Sizes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no dictionary
                part = file.get_slice(name)
                found[name] = part.get_dtype(), tuple(part.get_shape())
    return found


def swap(engine: LLMEngine, folder: Path, loaded: Path) -> None:
    """Put the weights of `folder` in the place of those of `loaded`.

    Raises RuntimeError where anything is left of the old ones: the engine must end.
    """
    ours, theirs = sizes(folder), sizes(loaded)
    if ours != theirs:
        other = sorted({name for name, _ in ours.items() ^ theirs.items()})
        raise RuntimeError(f"error: other tensors in {folder} than in {loaded}: {other[:5]}")
    engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
    engine.collective_rpc(pack_heads)
    forget(engine)


def forget(engine: LLMEngine) -> None:
    """Drop all blocks of prompts. Raises RuntimeError where some are still in use."""
    if not engine.reset_prefix_cache():
        raise RuntimeError("error: blocks of prompts that other weights read are still in use")


def pack_heads(worker: Any) -> None:
    """A CPU multiplies with a copy of the head in another order, which a reload leaves as it was
    where the head is the embedding. In a worker of vLLM: the one to hand to `collective_rpc`."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    if worker.device.type != "cpu":
        return
    with torch.no_grad():
        for layer in worker.model_runner.get_model().modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)
