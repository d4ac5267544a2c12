"""Profiles of real set-ups: complete, explicit about templates and money, planned offline."""

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.commands import profiles, spending
from pipeline.commands.estimate import compute, compute_table, estimate
from pipeline.config import params, teachers
from pipeline.config.models import HubInit
from pipeline.core import dag_names
from pipeline.core.errors import UserError
from pipeline.engines import char_tokenizer, hf, pretrained
from pipeline.plan import expand, experiment
from pipeline.teachers.protocol import Asked
from pipeline.teachers.providers.local import LocalTeacher
from tests.project import ROOT, Project

PROFILES = ("laptop-gpu", "qwen3-claude-haiku", "qwen3-gemini", "qwen3-openweight")
COMMIT = re.compile(r"[0-9a-f]{40}")
OFF = "<think>\n\n</think>\n\n"
QWEN3 = (  # what Qwen3's own template does with one message of a user, and its switch
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
TEMPLATES = {"in our words": QWEN3}
if trl := importlib.util.find_spec("trl"):  # where TRL is installed: its copy of the real one
    real = Path(str(trl.origin)).parent / "chat_templates/qwen3.jinja"
    TEMPLATES["as TRL has it"] = real.read_text()
ASKED = [{"role": "user", "content": "1+1?"}]


def loaded(name):
    return experiment.load(ROOT / "pipeline/commands/profiles" / f"{name}.yaml")


def cells(rounds, *, taught, own, teach, models, engine):
    """Cells by group, from a count by hand: all arms share round 1, then follow their students.

    `taught`: pairs of omniopd and its shuffled-scores, one for each teacher. `own`: arms with
    rollouts and no forks. Each pair asks alone from round 2; sft asks once a round.
    """
    later = rounds - 1
    return {
        "prepare-hub": 1,
        "pretrain": models,
        f"rollout{engine}": 1 + (2 * taught + own) * later,
        "forks": 1 + 2 * taught * later,
        teach: taught * (1 + 2 * later),
        f"{teach}-solutions": rounds,
        "score": 2 * taught * rounds,
        "prior": 2 * taught * rounds,
        "calibrate": taught * (1 + 2 * later),
        "train": 2 * taught * rounds,
        "train-sft": rounds,
        "train-grpo": rounds,
        f"evaluate{engine}": 1
        + 2 * taught
        + own
        + 1,  # base, those above and sft, after the last round
        "report": 1,
    }


HOSTED = {"teach": "teach-hosted", "models": 1, "own": 1, "engine": "-vllm"}
LOCAL = {"teach": "teach-vllm", "models": 2, "own": 2, "engine": "-vllm"}
BY_HAND = {
    "laptop-gpu": cells(4, taught=1, **LOCAL) | {"train-opd": 4},
    "qwen3-claude-haiku": cells(4, taught=1, **HOSTED),
    "qwen3-gemini": cells(4, taught=1, **HOSTED),
    "qwen3-openweight": cells(8, taught=1, **LOCAL) | {"train-opd": 8},
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_plans_as_many_cells_as_a_count_by_hand(name):
    found = Counter(x.partition("@")[0] for x in expand.upstream(expand.expand(loaded(name))))
    assert found == BY_HAND[name]


# `omniopd` on a machine that has all that a plan needs
ELSEWHERE = """
from pipeline.commands import app as cli
from pipeline.runner import preflight
preflight.check = lambda *wanted, **how: None
cli.main()
"""


def test_a_profile_is_put_in_place_and_dvc_sees_its_cells_without_any_network(tmp_path):
    project = Project(tmp_path / "project")
    name = "qwen3-openweight"
    text = (ROOT / "pipeline/commands/profiles" / f"{name}.yaml").read_text()
    nowhere = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    project.run("omniopd", "profile", name, **nowhere)
    assert (project.folder / "params.yaml").read_text() == text
    refused = project.run("omniopd", "plan", check=False, **nowhere)
    assert refused.returncode == 2  # what it needs of a machine is not here
    assert not (project.folder / "dag").exists()
    said = project.run("python", "-c", ELSEWHERE, "plan", **nowhere).stdout
    assert f"dag: {sum(BY_HAND[name].values())} cells" in said
    stages = project.run("dvc", "stage", "list", "--all", "--name-only", **nowhere).stdout.split()
    cells = [dag_names.cell_of(x) for x in stages]
    assert Counter(x.partition("@")[0] for x in cells) == {**BY_HAND[name], "plan": 1}


def test_the_paper_s_gemini_is_named_and_is_not_asked():
    file = loaded("qwen3-gemini")
    assert file.arm("paper").teach.teacher == "flash-2-5"
    assert file.teachers["flash-2-5"].model == "gemini-2.5-flash"
    asked = {file.arm(arm).teach.teacher for arm in file.experiment.arms}
    assert asked == {"flash-lite-3-5"}


STATED = {  # TFLOPS and GB/s
    "qwen3-openweight": (300.0, 2000.0),
    "laptop-gpu": (60.0, 700.0),
    "qwen3-claude-haiku": (60.0, 700.0),
    "qwen3-gemini": (60.0, 700.0),
    "smollm2": (0.2, 10.0),
    "study": (0.2, 10.0),
}
MEMORY = (
    *("rollout, sampling", "rollout, exact pass", "teach", "train omniopd", "train opd"),
    "evaluate",
)


@pytest.mark.parametrize("name", STATED)
def test_the_docs_have_what_the_estimate_says(name, tmp_path, monkeypatch, store):
    monkeypatch.chdir(tmp_path)  # where no cell has run
    file = loaded(name)
    expanded = expand.expand(file)
    dollars = estimate.total(estimate.estimate(file, expanded, store)).usd
    stated = compute_table.card(file.runtime, *STATED[name])
    found = compute_table.found(compute.Experimental(file, expanded), stated)
    most: dict[str, float] = {}
    for row in found.memory:
        what = re.split(r" of | \(|(?<=teach), ", row["stage"])[0]
        most[what] = max(most.get(what, 0.0), row["gb"])
    gb = " / ".join(f"{most[what]:.1f}" if what in most else "" for what in MEMORY)
    sums = (sum(row["gb"] for row in found.cache), sum(row["hours"] for row in found.hours))
    cells = [name, gb, *(f"{x:.1f}" for x in sums), f"{dollars:.2f}" if dollars else ""]
    line = f"| {' | '.join(cells)} |".replace("  ", " ")
    assert line in (ROOT / "docs/larger.md").read_text()


@pytest.mark.parametrize("name", PROFILES)
def test_every_model_of_a_profile_is_pinned_and_says_how_it_is_asked(name):
    file = loaded(name)
    for model in file.pretrain.models.values():
        assert model.init.kind == "hub"
        assert COMMIT.fullmatch(model.init.revision)
        assert model.init.chat_template == "own"
        assert model.init.thinking is False
        assert model.steps == 0
    for found in file.prepare.sets.values():
        assert found.hub
        assert COMMIT.fullmatch(found.revision)
    assert file.train.lora
    for arm in file.experiment.arms:
        assert file.arm(arm).score.metric == "embedding"
    assert any(file.arm(arm).score.source == "shuffled" for arm in file.experiment.arms)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_that_costs_dollars_is_a_pilot_with_a_limit_and_no_accepted_terms(name):
    file = loaded(name)
    hosted = [x for x in file.teachers.values() if not isinstance(x, teachers.LocalTeacher)]
    assert bool(hosted) == (name in ("qwen3-claude-haiku", "qwen3-gemini"))
    if hosted:
        assert (file.forks.max_forks, file.teach.samples) == (4, 5)
        assert file.teach.max_usd
        assert file.teach.accept_terms == ()
        assert all(teacher.price for teacher in hosted)
        assert "opd" not in file.experiment.arms
    else:
        assert {"opd", "sft", "grpo"} < set(file.experiment.arms)


def checkpoint(folder, template=QWEN3, **save):
    """A small model that writes characters and has Qwen3's marks as tokens of its own."""
    torch.manual_seed(0)
    tokens = char_tokenizer.tokenizer("".join(map(chr, range(32, 127))) + "\n")
    tokens.add_tokens(["\n\n", "<think>", "</think>", "<|im_start|>", "<|im_end|>"])
    tokens.chat_template = template
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=len(tokens), num_attention_heads=2, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder, **save)
    tokens.save_pretrained(folder)
    return str(folder)


def stored(tmp_path, template=QWEN3, **init):
    """Folder of the checkpoint that stage pretrain makes of such a model."""
    name = checkpoint(tmp_path / "hub", template)
    model, tokenizer = pretrained.from_hub(HubInit(kind="hub", name=name, **init))
    hf.save(model, tokenizer, tmp_path / "stored", torch.float32)
    return tmp_path / "stored"


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_empty_think_block_is_in_both_sides_prompts_and_never_in_y(tmp_path, template):
    folder = stored(tmp_path, template, chat_template="own", thinking=False)
    policy = hf.load(folder)
    prompt = policy.prompt_ids(ASKED)
    rendered = f"<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n{OFF}"
    assert prompt == policy.tokenizer.encode(rendered, add_special_tokens=False)
    vocabulary = policy.tokenizer.get_vocab()
    block = [
        vocabulary[x] for x in ("<think>", "\n\n", "</think>", "\n\n")
    ]  # 151667 271 151668 271
    assert prompt[-4:] == block
    y = policy.tokenizer.encode("2", add_special_tokens=False)
    asked = Asked("completions", 1.0, "live", params.Runtime())
    assert list(LocalTeacher(folder, folder, asked).prompt(ASKED, y, "2")) == [*prompt, *y]
    # the switch is the checkpoint's: a reader that passes none renders the same
    given = {"tokenize": False, "add_generation_prompt": True}
    assert policy.tokenizer.apply_chat_template(ASKED, **given) == rendered


def test_thinking_on_leaves_the_block_to_the_student_whatever_the_reader_passes(tmp_path):
    policy = hf.load(stored(tmp_path, thinking=True))
    rendered = policy.tokenizer.decode(policy.prompt_ids(ASKED), skip_special_tokens=False)
    assert rendered.endswith("<|im_start|>assistant\n")


def test_without_the_settings_a_checkpoint_keeps_its_template_to_the_letter(tmp_path):
    folder = stored(tmp_path)
    assert hf.load(folder).tokenizer.chat_template == QWEN3


def test_a_template_in_params_takes_the_place_of_the_checkpoints_own(tmp_path):
    policy = hf.load(stored(tmp_path, chat_template="Q {{ messages[0].content }} A "))
    assert policy.tokenizer.decode(policy.prompt_ids(ASKED)) == "Q 1+1? A "


@pytest.mark.parametrize(
    ("template", "thinking", "said"),
    [
        ("{{ messages[0].content }}<think>\n", False, "opens a think block all the same"),
        ("{{ messages[0].content }}", True, "its template has no switch"),
    ],
)
def test_a_switch_that_the_template_cannot_follow_is_refused(tmp_path, template, thinking, said):
    name = checkpoint(tmp_path, template)
    with pytest.raises(UserError, match=said):
        pretrained.from_hub(HubInit(kind="hub", name=name, thinking=thinking))


def test_pickled_weights_are_refused(tmp_path):
    name = checkpoint(tmp_path)
    weights = tmp_path / "model.safetensors"
    torch.save(LlamaForCausalLM.from_pretrained(name).state_dict(), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match="it has weights as"):
        pretrained.from_hub(HubInit(kind="hub", name=name))


def test_the_estimate_of_a_profile_needs_no_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGMENTS_URL", f"sqlite:///{tmp_path / 'judgments.sqlite'}")
    found = json.loads(spending.estimate(True, profile="qwen3-claude-haiku"))
    assert f"{found['total']['usd']:.2f}" in (ROOT / "docs/larger.md").read_text()
    assert found["total"]["usd"] > 1
    assert not list(tmp_path.glob("*.yaml"))


def test_a_profile_with_a_paid_teacher_says_what_comes_before_a_run():
    assert profiles.after("default", "cd my && ") == "`cd my && omniopd repro`"
    assert profiles.after("qwen3-gemini").startswith(
        "`omniopd estimate` and `omniopd teacher check`"
    )
