"""Code and pickles that a checkpoint brings along are not run, unless params say so."""

import ast
import inspect
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import dynamic_module_utils

from pipeline.commands import lm_eval
from pipeline.config.models import HubInit
from pipeline.config.params import Runtime
from pipeline.core.errors import UserError
from pipeline.engines import checkpoints, pretrained
from pipeline.engines.hf import generate, load, policy_of, save
from pipeline.engines.sampling import GREEDY
from pipeline.engines.vllm import engine
from tests import naive
from tests.project import ROOT

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path("ran").touch()
class OwnConfig(LlamaConfig):
    model_type = "MODEL_TYPE"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
AUTO_MAP = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
ALLOW = "runtime: {trust_remote_code: true}\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty project; copies of a checkpoint's code, too, stay in this folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return tmp_path


def coded(folder, model_type):
    """A tiny Llama that names code of its own for `model_type`."""
    policy = naive.tiny(1)
    save(policy.model, policy.tokenizer, folder, torch.float32)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": model_type, "auto_map": AUTO_MAP, "architectures": ["OwnForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE.replace("MODEL_TYPE", model_type))
    return folder


def test_a_model_that_only_its_own_code_can_load_is_refused_and_nothing_of_it_runs(here):
    folder = coded(here / "checkpoint", "own-llama")
    ways = (
        lambda: load(folder),
        lambda: pretrained.from_hub(HubInit(kind="hub", name=str(folder))),
        lambda: engine.arguments(folder, Runtime()),
        lambda: lm_eval.model_args(folder),
    )
    for way in ways:
        with pytest.raises(UserError, match=r"'own-llama'.*runtime\.trust_remote_code: true"):
            way()
    assert not (here / "ran").exists()


def test_with_the_setting_it_is_imported_saved_with_its_code_and_sampled_from(here):
    (here / "params.yaml").write_text(ALLOW)
    folder = coded(here / "checkpoint", "own-llama")
    model, tokenizer = pretrained.from_hub(HubInit(kind="hub", name=str(folder)))
    assert (here / "ran").exists()
    save(policy_of(model, tokenizer, "cpu").model, tokenizer, here / "saved", torch.float32)
    found = load(here / "saved")
    assert type(found.model).__name__ == "OwnForCausalLM"
    assert lm_eval.model_args(here / "saved")["trust_remote_code"] is True
    assert engine.arguments(here / "saved", Runtime())["trust_remote_code"] is True
    rows = [dict(generate(p, [[2, 3]], [np.zeros(6)], GREEDY, 6, 99))[0] for p in (
        found, naive.tiny(1)
    )]  # fmt: skip
    assert rows[0] == rows[1]
    before = checkpoints.fingerprint(here / "saved")
    (here / "saved" / "own.py").write_text("raise SystemExit\n")
    assert checkpoints.fingerprint(here / "saved") != before


@pytest.mark.parametrize("setting", ["", ALLOW])
def test_code_of_a_model_that_transformers_knows_never_runs_and_is_not_handed_on(here, setting):
    (here / "params.yaml").write_text(setting)
    folder = coded(here / "checkpoint", "llama")
    assert type(load(folder).model).__name__ == "LlamaForCausalLM"
    model, tokenizer = pretrained.from_hub(HubInit(kind="hub", name=str(folder)))
    save(policy_of(model, tokenizer, "cpu").model, tokenizer, here / "saved", torch.float32)
    assert "auto_map" not in json.loads((here / "saved" / "config.json").read_text())
    assert not list((here / "saved").glob("*.py"))
    assert lm_eval.model_args(folder)["trust_remote_code"] is False
    assert engine.arguments(folder, Runtime())["trust_remote_code"] is False
    assert not (here / "ran").exists()


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_pickled_weights_are_refused_unread(here):
    folder = here / "checkpoint"
    policy = naive.tiny(1)
    save(policy.model, policy.tokenizer, folder, torch.float32)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "evil": Evil()}, folder / "pytorch_model.bin")
    for way in (load, lambda f: engine.Engine(f, Runtime()), lm_eval.model_args):
        with pytest.raises(UserError, match=r"found weights as pytorch_model\.bin, wanted \*\.saf"):
            way(folder)
    with pytest.raises(UserError, match=r"weights as \*\.safetensors"):
        pretrained.from_hub(HubInit(kind="hub", name=str(folder)))
    assert not (here / "ran").exists()


def test_every_call_that_could_run_a_models_code_or_unpickle_says_that_it_does_not():
    """Calls of Auto classes: left out, trust_remote_code asks on a terminal; False must be said,
    or the answer of checkpoints.trusted. Classes that cannot run code need not say it."""
    safe, found = {"PreTrainedTokenizerFast", "LoraConfig"}, 0
    for path in sorted((ROOT / "pipeline").rglob("*.py")) + sorted((ROOT / "stages").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr not in ("from_pretrained", "from_config"):
                continue
            owner = ast.unparse(call.func.value)
            said = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if owner in safe:
                continue
            found += 1
            # pipeline/commands/exports/trl_train.py, a file of its own
            if said.get(None) == "safe":
                assert '"use_safetensors": True, "trust_remote_code": False' in path.read_text()
                continue
            trust = said.get("trust_remote_code")
            assert trust in ("False", "code", "checkpoints.runs_code(base)"), (path, call.lineno)
            if owner == "AutoModelForCausalLM" and "gguf_file" not in said:
                assert said.get("use_safetensors") == "True", (path, call.lineno)
    assert found >= 8
    from sentence_transformers import SentenceTransformer

    default = inspect.signature(SentenceTransformer.__init__).parameters["trust_remote_code"]
    assert default.default is False
