"""Adapters through peft: added to a model in place, saved beside nothing but the tokenizer.

The model stays what it was to everything that reads it: its layers, its head, its cache. Weights
of an adapter are float32 whatever the dtype of the frozen ones is.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.config.method import Lora
from pipeline.core.errors import UserError
from pipeline.engines import checkpoints
from pipeline.engines.chat import tokenizer_files

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # what peft puts before the names of an adapter's weights


def add(model: Any, settings: Lora, seed: int) -> None:
    """Freeze `model` and give it an adapter that changes nothing yet. Raises UserError."""
    from peft import LoraConfig

    wanted = () if settings.targets == "all-linear" else settings.targets
    torch.manual_seed(seed)  # peft draws one of the two factors; the other is zero
    _inject(
        model,
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # only ever divided by r
            target_modules=sorted(wanted) or "all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    adapted = {name.rpartition(".")[2] for name in _layers(model)}
    missing = sorted(set(wanted) - adapted)
    if missing:
        raise UserError(
            f"train.lora.targets: {missing} are no linear layers of this model; linear are "
            f"{sorted(_linear(model))}. Name some of these, or all-linear."
        )


def load(model: Any, folder: Path) -> None:
    """Give `model` the adapter in `folder`. Raises UserError if it does not fit."""
    from peft import LoraConfig
    from peft.utils import set_peft_model_state_dict

    values = json.loads((folder / checkpoints.ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if values.get("peft_type") != "LORA":
        kind = values.get("peft_type")
        raise UserError(f"{folder}: found an adapter of type {kind}, wanted LORA.")
    try:
        config = LoraConfig.from_pretrained(str(folder))
        weights = load_file(folder / WEIGHTS)  # never the pickled form that peft would take too
    except (ValueError, TypeError, OSError, SafetensorError) as error:
        raise UserError(f"{folder}: not a whole adapter ({error}). Rerun its stage.") from error
    _inject(model, config)
    theirs = {name.removeprefix(PREFIX): value for name, value in weights.items()}
    ours = _state(model)
    if {n: v.shape for n, v in theirs.items()} != {n: v.shape for n, v in ours.items()}:
        raise UserError(
            f"{folder}: its {len(theirs)} weights are not the {len(ours)} that its config asks of "
            "this base. Rerun its stage."
        )
    set_peft_model_state_dict(model, theirs)


def save(model: Any, tokenizer: Any, base: Path, folder: Path) -> None:
    """Write the adapter, its tokenizer and the hash of the base whole or not at all."""
    config = model.peft_config["default"].to_dict()
    config["base_model_name_or_path"] = os.path.relpath(base)
    # sets have another order in every process
    config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    weights = {PREFIX + name: value.cpu().contiguous() for name, value in _state(model).items()}
    try:
        with checkpoints.replacing_folder(folder) as temporary:
            save_file(weights, temporary / WEIGHTS, {"format": "pt"})
            _write(temporary / checkpoints.ADAPTER_CONFIG, config)
            _write(temporary / checkpoints.BASE, {"sha256": checkpoints.fingerprint(base)})
            tokenizer_files.save(tokenizer, temporary)
    except SafetensorError as error:  # what a full disk looks like to safetensors
        raise UserError(f"{folder}: could not be written ({error}). Free space.") from error


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """`model` as it was before it had an adapter, inside the block. Needs one."""
    layers = list(_layers(model).values())
    assert layers  # without an adapter the block would read the model itself
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merge(model: Any) -> None:
    """Put the adapter into the weights that it sits on; `model` has none afterwards."""
    from peft.utils import ModulesToSaveWrapper

    for name, layer in _layers(model).items():
        layer.merge(safe_merge=True)
        _put(model, name, layer.get_base_layer())
    whole = {n: m for n, m in model.named_modules() if isinstance(m, ModulesToSaveWrapper)}
    for name, wrapper in whole.items():  # modules that were trained whole, beside the adapter
        _put(model, name, wrapper.modules_to_save["default"])
    del model.peft_config


def _put(model: Any, name: str, module: Any) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def check_merged(model: Any, weights: set[str]) -> None:
    """Raise UserError unless a merged model has the weights of its base, and may be saved so."""
    names = set(model.state_dict())
    if names != weights:
        raise UserError(f"its weights {sorted(names ^ weights)[:4]} cannot be put into the base.")
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if model.config.get_text_config().tie_word_embeddings and not torch.equal(
        head.weight, embedding.weight
    ):
        raise UserError("it has a head of its own, and its base's is the embedding.")


def has(model: Any) -> bool:
    return hasattr(model, "peft_config")


def same(model: Any, settings: Lora) -> bool:
    """Whether the adapter of `model` is of this rank, scale and these layers."""
    config = model.peft_config["default"]
    names = {name.rpartition(".")[2] for name in _layers(model)}
    wanted = _linear(model) if settings.targets == "all-linear" else set(settings.targets)
    return (config.r, config.lora_alpha, names) == (settings.rank, settings.alpha, wanted)


def _inject(model: Any, config: Any) -> None:
    from peft import inject_adapter_in_model

    model.requires_grad_(False)
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise UserError(
            f"train.lora.targets: {error} Linear layers are {sorted(_linear(model))}."
        ) from error
    heads = (model.get_input_embeddings(), model.get_output_embeddings())
    if any(layer in heads for layer in _layers(model).values()):
        raise UserError("train.lora.targets: embeddings and head stay frozen. Leave them out.")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _layers(model: Any) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: m for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)}


def _linear(model: Any) -> set[str]:
    """Last names of the linear layers without the head."""
    head, adapted = model.get_output_embeddings(), _layers(model)
    layers = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
        if not any(name.startswith(f"{layer}.") for layer in adapted)
    }
    return layers | {name.rpartition(".")[2] for name in adapted}


def _state(model: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    # embeddings are never adapted, and asking whether they are would ask the hub
    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))


def _write(path: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=1, sort_keys=True) + "\n"
    path.write_text(text, encoding="utf-8")
