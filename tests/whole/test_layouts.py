"""Each public layout of a model through all stages: ids, ends, dates and characters hold."""

import datetime
import functools
import importlib
import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from ruamel.yaml import YAML
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.utils import chat_template_utils

import stages.train
from pipeline.commands.exports import card
from pipeline.config.models import Habits, HubInit
from pipeline.config.renamed import in_cells
from pipeline.core.errors import UserError
from pipeline.data import prompts, schemas, tables
from pipeline.data import text as texts
from pipeline.engines import checkpoints, hf, pretrained
from pipeline.engines.chat import templates, tokenizer_files, turn_ends
from pipeline.method.objectives import declared
from pipeline.stage import cells
from pipeline.tasks.prompts import Prepare
from pipeline.training import external_rollouts
from pipeline.training.evidence import train_params
from tests import layouts, small_engines
from tests.layouts import ASKED, LAYOUTS
from tests.project import ROOT
from tests.servers import Pure, of_check

NEW, CHUNK, SAMPLES = 24, 6, 3
TASK = {"task": "arithmetic", "seed": 0, "digits": 2, "train": 4, "dev": 1, "test": 2}
COMMON = {"seed": 0, "round": 1}
ROLLOUT = COMMON | {
    "prepare": TASK,
    "engine": "hf",
    "prompts_per_round": len(ASKED),
    "samples_per_prompt": 8,
    "max_new_tokens": NEW,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
}
FORKS = COMMON | {"scheduler": "peak-entropy", "max_forks": 2, "chunk_tokens": CHUNK}
TEACH = {
    "teacher": "t",
    "kind": "local",
    "samples": SAMPLES,
    "temperature": 1.0,
    "continuation": "completions",
    "max_attempts": 3,
    "max_failure_rate": 0.5,
    "epoch": 0,
    "chunk_tokens": CHUNK,
    "round": 1,
    "prompts_per_round": len(ASKED),
}
SCORE = COMMON | {
    "metric": "edit",
    "source": "similarity",
    "allow_flat": True,
    "teacher": "t",
    "samples": SAMPLES,
}
PRIOR = COMMON | {"alpha": 1.0, "source": "scores", "samples": SAMPLES, "weight": "posterior"}
TRAIN = COMMON | {
    "objective": "omniopd",
    "lr": 1e-3,
    "batch_size": 64,
    "micro_batch_size": 32,
    "epochs": 1,
    "reduce": "response_sum",
    "optimizer": "carry",
    "betas": [0.9, 0.98],
    "warmup_steps": 1,
    "clip": 1.0,
    "beta": 0.1,
    "correction": "none",
    "baseline": "none",
    "anchor": "outside",
    "answers": 2,
    "prompts_per_round": len(ASKED),
}
EVALUATE = {
    "prepare": TASK,
    "split": "test",
    "problems": 2,
    "samples": 2,
    "temperature": 1.0,
    "max_new_tokens": NEW,
}
MORE = {"Gemma2": {"head_dim": 32}, "Granite": {"logits_scaling": 8.0}}
MODEL = {"steps": 0, "batch_size": 1, "lr": 1e-3, "dtype": "float32"}
MODEL |= {"habits": Habits().model_dump(mode="json")}
HAND = "schön, 你好 🦄🚀: größer!\nДым, 12."  # in each script, some of it bytes alone
WORDS = ("carried ", "schön ", "你好 ", "12 + 3 = 15, ", "🦄", "\nThe end. ", "размер ")


def stage(name, out, p, **inputs):
    """Run a stage in this process, as its command line does. UserErrors pass."""
    if name == "train":  # the keys that its objective has
        p = {key: p[key] for key in in_cells(train_params.of(declared(p["objective"]))) if key in p}
    cells.hold(name, out.name, name, {"params": p})
    argv = [name, "--cell", out.name, "--out", str(out)]
    for key, path in inputs.items():
        argv += [f"--{key}", str(path)]
    module = importlib.import_module(f"stages.{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        patch.setattr(cells, "check_code", lambda stage, key: None)
        module.main.__wrapped__()
    return out


def problems(path, extra=()):
    rows = [
        {
            "prompt_id": f"{split}-{i}",
            "task": "arithmetic",
            "split": split,
            "messages": json.dumps(messages),
            "prompt": messages[-1]["content"],
            "answer": "1",
        }
        for split, i, messages in [
            *(("train", i, asked(text)) for i, text in enumerate(ASKED)),
            *(("test", i, asked(text)) for i, text in enumerate(ASKED[:2])),
            *extra,
        ]
    ]
    tables.write(pa.Table.from_pylist(rows, schema=schemas.PROMPTS), path, schemas.PROMPTS)
    return path


def asked(text):
    return [{"role": "user", "content": text}]


def words(request, reply):
    """A server's answers: words of several scripts that depend on the request alone."""
    if of_check(request):
        return reply
    for choice in reply["choices"]:
        draw = np.random.default_rng([*json.dumps(request).encode(), choice["index"]])
        text = "".join(draw.choice(WORDS, 12))
        message = choice.get("message")
        choice |= {"message": message | {"content": text}} if message else {"text": text}
        if draw.random() < 0.3:
            choice["finish_reason"] = "stop"
            short = text[: int(draw.integers(0, 9))]
            choice |= {"message": message | {"content": short}} if message else {"text": short}
    return reply


class Matrix:
    """What all stages made of one layout."""

    def __init__(self, layout, folder):
        self.layout, self.folder = layout, folder
        self.hub = layouts.folder(layout, folder / "hub")
        self.prompts = problems(folder / "prompts.parquet")
        self.student = self.pretrain("student", self.hub)
        self.policy = hf.load(self.student / "checkpoint")
        self.truth = Tokenizer.from_file(str(self.hub / "tokenizer.json"))
        rollout = stage(
            "rollout", folder / "rollout", ROLLOUT, prompts=self.prompts, policy=self.student
        )
        self.rollouts = rollout / "rollouts.parquet"
        self.rows = self.read(self.rollouts, schemas.ROLLOUTS)
        tokenizer = self.student / "checkpoint" / "tokenizer.json"
        self.asking = {"prompts": self.prompts, "tokenizer": tokenizer}
        out = stage("forks", folder / "forks", FORKS, rollouts=self.rollouts, tokenizer=tokenizer)
        self.forks = out / "forks.parquet"
        self.answers = {}

    def pretrain(self, name, hub, **init):
        model = MODEL | {"init": {"kind": "hub", "name": str(hub), **init}}
        p = {"model": model, "prepare": TASK, "seed": 0}
        return stage("pretrain", self.folder / name, p, prompts=self.prompts)

    def read(self, path, schema):
        return tables.read(path, schema).to_pylist()

    def teach(self, name, teacher=None, **p):
        given = self.asking | ({"teacher": teacher} if teacher else {})
        if "solutions" not in name:
            given |= {"rollouts": self.rollouts, "forks": self.forks}
        out = stage("teach", self.folder / name, TEACH | p, **given)
        self.answers[name] = out / "answers.parquet"

    def train(self, name, p, **inputs):
        """Train one step; the sequences that it was made of."""
        seen = []

        def watched(student, frozen, work, *rest):
            seen.extend(s for i in range(len(work.examples)) for s in work.examples[i].sequences)
            return real(student, frozen, work, *rest)

        real = stages.train.train
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages.train, "train", watched)
            stage("train", self.folder / name, TRAIN | p, policy=self.student, **inputs)
        return seen


@pytest.fixture(scope="module", params=LAYOUTS)
def ran(request, tmp_path_factory):
    """One layout through all stages."""
    layout, folder = LAYOUTS[request.param], tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch, Pure(change=words).running() as server:
        patch.chdir(folder)
        patch.setenv("JUDGMENTS_URL", f"sqlite:///{folder / 'judgments.sqlite'}")
        yield run(Matrix(layout, folder), server)


def run(m, server):
    other = layouts.MISTRAL_7 if m.layout.name != "mistral" else layouts.QWEN_3
    abroad = layouts.folder(other, m.folder / "abroad", seed=2)
    twin = m.pretrain("twin", layouts.folder(m.layout, m.folder / "again", seed=1))
    stranger = m.pretrain("stranger", abroad)
    m.teach("same", twin)
    m.teach("other", stranger)
    m.teach("solutions", stranger, samples=2, chunk_tokens=NEW)
    api = {"base_url": f"{server.url}/v1", "concurrency": 4}
    Path("params.yaml").write_text(json.dumps({"teachers": {"t": api}}))
    hosted = {"kind": "openai_compatible", "provider": "other", "model": "stub-1"}
    # a template that trims its content alters a prefix, and is refused; these two do not
    plain = layouts.QWEN_3 if m.layout.name != "qwen3" else layouts.MISTRAL_7
    speaker = layouts.folder(plain, m.folder / "speaker")
    m.teach("prefill", continuation="prefill", tokenizer=str(speaker), **hosted)
    m.teach("completions", tokenizer=str(speaker), **hosted)
    m.teach("completions-own", tokenizer="student", **hosted)
    m.targets = {}
    for name in ("same", "other", "prefill"):
        scored = {"forks": m.forks, "answers": m.answers[name], "rollouts": m.rollouts}
        score = stage("score", m.folder / f"score-{name}", SCORE, **scored)
        given = {"rollouts": m.rollouts, "forks": m.forks, "scores": score / "scores.parquet"}
        out = stage("prior", m.folder / f"prior-{name}", PRIOR, **given)
        m.targets[name] = out / "targets.parquet"
    given = {"rollouts": m.rollouts, "reference": m.student}
    m.trained = {
        "omniopd": m.train("omniopd", {}, targets=m.targets["other"], **given),
        "sft": m.train(
            "sft", {"objective": "sft"}, prompts=m.prompts, answers=m.answers["solutions"]
        ),
    }
    for name in ("same", "prefill"):
        p, given2 = {"objective": "imitate-forks"}, {"forks": m.forks, "answers": m.answers[name]}
        m.trained[f"imitate-{name}"] = m.train(f"imitate-{name}", p, **given2, **given)
    m.evals = stage(
        "evaluate", m.folder / "evals", EVALUATE, prompts=m.prompts, policy=m.folder / "omniopd"
    )
    m.exported = m.folder / "exported"
    m.exported.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "card", lambda source: "")
        source = SimpleNamespace(checkpoint=m.folder / "omniopd" / "checkpoint")
        importlib.import_module("pipeline.commands.exports.hf").write(source, m.exported)
    return m


def test_the_ends_are_the_familys_and_the_template_s_comes_first(ran):
    found = [ran.policy.tokenizer.convert_ids_to_tokens(x) for x in ran.policy.ends]
    assert found[0] == ran.layout.ends[0]
    assert set(found) == set(ran.layout.ends)
    assert set(turn_ends.ends(ran.student / "checkpoint")) == set(ran.policy.ends)


def test_every_end_stops_a_response_and_nothing_else_does(ran):
    ends, seen = set(ran.policy.ends), Counter()
    for row in ran.rows:
        ids = row["token_ids"]
        assert (row["finish_reason"] == "stop") == (ids[-1] in ends)
        assert not ends & set(ids[:-1])
        assert row["finish_reason"] == "stop" or len(ids) == NEW
        seen[ids[-1] if row["finish_reason"] == "stop" else None] += 1
    assert set(seen) == {None, *ends}


def test_prompt_ids_are_what_tokenizer_json_makes_of_the_rendered_template(ran):
    tokens = layouts.fast(ran.layout)
    for row in ran.rows:
        messages = asked(ASKED[int(row["prompt_id"].rpartition("-")[2])])
        date = {"date_string": "26 Jul 2024"} if ran.layout.name == "llama3" else {}
        how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        shown = tokens.apply_chat_template(messages, **how, **date)
        assert row["prompt_token_ids"] == ran.truth.encode(shown, add_special_tokens=False).ids


def test_a_rendering_is_the_same_on_any_day(ran, monkeypatch):
    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 2, 3)

    before = [ran.policy.prompt_ids(asked(x)) for x in ASKED]
    raw = templates.render(layouts.fast(ran.layout), asked(ASKED[0]), "")
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    assert [ran.policy.prompt_ids(asked(x)) for x in ASKED] == before
    dated = templates.render(layouts.fast(ran.layout), asked(ASKED[0]), "")
    assert (raw != dated) == ("strftime_now" in ran.layout.template)  # the clock was read before
    others = AutoTokenizer.from_pretrained(ran.exported)
    how = {"add_generation_prompt": True, "enable_thinking": False, "return_dict": False}
    assert [others.apply_chat_template(asked(x), **how) for x in ASKED] == before


def test_texts_hold_no_special_token_and_no_end(ran):
    evals = ran.read(ran.evals / "evals.parquet", schemas.EVALS)
    said = [row["text"] for row in ran.rows] + [row["response"] for row in evals]
    said += [row["chunk_text"] for row in ran.read(ran.forks, schemas.FORKS)]
    for path in ran.answers.values():
        said += [row["text"] for row in ran.read(path, schemas.ANSWERS)]
    marks = {*ran.layout.special, *ran.layout.ends, *layouts.QWEN_3.special}
    assert not [(text, x) for text in said for x in marks if x in text]


def test_rows_of_the_head_that_stand_for_no_token_are_never_written(ran):
    known = set(ran.truth.get_vocab().values())
    assert not {x for row in ran.rows for x in row["token_ids"]} - known
    assert ran.policy.model.config.vocab_size - len(known) == ran.layout.padding


def test_forks_start_at_characters_and_chunks_end_with_whole_ones(ran):
    rows = {row["rollout_id"]: row for row in ran.rows}
    found = ran.read(ran.forks, schemas.FORKS)
    assert len({fork["rollout_id"] for fork in found}) > len(rows) / 4
    for fork in found:
        row = rows[fork["rollout_id"]]
        before = ran.truth.decode(row["token_ids"][: fork["position"]])
        assert fork["prefix_text"] == before
        assert not before.endswith(texts.LOST)
        assert not fork["chunk_text"].endswith(texts.LOST)
        if texts.LOST not in row["text"]:
            assert row["text"].startswith(before + fork["chunk_text"])


def test_answers_ids_behind_the_prefix_are_their_text(ran):
    rows = {row["rollout_id"]: row for row in ran.rows}
    for name, path in ran.answers.items():
        found, ended = ran.read(path, schemas.ANSWERS), 0
        for answer in found:
            ids = answer["token_ids"]
            assert not answer["text"].endswith(texts.LOST)
            assert not set(ran.policy.ends) & set(ids)
            assert len(ids) <= (NEW if name == "solutions" else CHUNK)
            assert answer["ended"] or ids or answer["completion_tokens"]
            ended += answer["ended"]
            if name == "solutions":
                assert ran.truth.decode(ids) == answer["text"]
                continue
            row = rows[answer["rollout_id"]]
            before = row["token_ids"][: answer["position"]]
            both = ran.truth.decode([*before, *ids])
            if texts.LOST not in both:  # random models write bytes of no character, too
                assert both == ran.truth.decode(before) + answer["text"]
        assert ended
        assert name == "solutions" or ended < len(found)


def test_what_is_trained_on_is_the_answers_ids_with_the_templates_end(ran):
    end = ran.policy.ends[0]
    assert end == ran.truth.token_to_id(ran.layout.ends[0])
    solved = ran.read(ran.answers["solutions"], schemas.ANSWERS)
    wanted = [[*row["token_ids"], end] for row in solved if row["ended"]]
    assert [s.token_ids for s in ran.trained["sft"]] == wanted
    for name in ("same", "prefill"):
        found = [s.token_ids for s in ran.trained[f"imitate-{name}"] if s.signal_T.any()]
        imitated = [x for x in ran.read(ran.answers[name], schemas.ANSWERS) if x["sample"] < 2]
        wanted = [[*row["token_ids"], *[end] * row["ended"]] for row in imitated]
        assert sorted(found) == sorted(filter(None, wanted))


def test_no_trained_text_holds_what_is_no_character(ran):
    lost = set(ran.truth.encode("a" + texts.LOST, add_special_tokens=False).ids)
    lost -= set(ran.truth.encode("a", add_special_tokens=False).ids)
    for name in ("sft", "imitate-prefill"):  # written by tokenizers that are not the student's
        for s in ran.trained[name]:
            if s.signal_T.any():
                assert texts.LOST not in texts.decode_after(
                    ran.policy.decode, s.context_ids, s.token_ids
                )


def test_targets_are_means_of_exactly_n_answers(ran):
    for path in ran.targets.values():
        for row in ran.read(path, schemas.TARGETS):
            assert row["n"] == SAMPLES
            assert 0 <= row["k_sem"] <= SAMPLES
            assert 0 <= row["pi_hat"] <= 1
            mean = (row["k_sem"] + row["pi_bar"]) / (SAMPLES + 1)
            assert row["pi_hat"] == pytest.approx(mean, abs=1e-6)


def test_one_step_changes_the_weights_and_leaves_the_ends(ran):
    for name in ("omniopd", "sft", "imitate-same", "imitate-prefill"):
        folder = ran.folder / name / "checkpoint"
        assert turn_ends.ends(folder) == turn_ends.ends(ran.student / "checkpoint")
        assert checkpoints.fingerprint(folder) != checkpoints.fingerprint(
            ran.student / "checkpoint"
        )
        assert (folder / "tokenizer.json").read_bytes() == (
            ran.student / "checkpoint" / "tokenizer.json"
        ).read_bytes()


def test_others_read_the_ids_of_tokenizer_json_from_the_export(ran):
    found = AutoTokenizer.from_pretrained(ran.exported)
    for text in (*layouts.TEXT, *ASKED, HAND, *tokenizer_files.PROBES):
        assert found.encode(text, add_special_tokens=False) == (
            ran.truth.encode(text, add_special_tokens=False).ids
        )


def test_rollouts_come_back_through_the_import(ran, tmp_path):
    rows = [
        {
            "rollout_id": row["rollout_id"],
            "messages": asked(ASKED[int(row["prompt_id"].rpartition("-")[2])]),
            **{name: row[name] for name in ("token_ids", "text", "finish_reason", "logprobs")},
        }
        for row in ran.rows
    ]
    rows.append({"prompt": ASKED[0], "text": HAND, "finish_reason": "stop", "rollout_id": "hand"})
    found = read_in(ran, rows, tmp_path)
    for row, back in zip(sorted_by_prompt(ran.rows), found, strict=False):
        for name in ("rollout_id", "prompt_token_ids", "token_ids", "text", "finish_reason"):
            assert back[name] == row[name]
        assert back["logprobs"] == pytest.approx(row["logprobs"], abs=1e-4)
    hand = next(row for row in found if row["rollout_id"] == "hand")
    assert hand["text"] == HAND
    assert hand["token_ids"][-1] == ran.policy.ends[0]
    assert ran.truth.decode(hand["token_ids"][:-1]) == HAND


def sorted_by_prompt(rows):
    return rows  # the file's order is kept


def read_in(ran, rows, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    values = {"task": "prompts", "seed": 0, "train": len(ASKED), "file": str(file)}
    known = prompts.read(ran.prompts, "train")
    given = Prepare(**values, responses=True)
    found = list(external_rollouts.tables_of(given, ran.policy, known, 65536, {}))
    return pa.concat_tables(found).to_pylist()


def test_no_fork_of_a_text_in_many_scripts_is_inside_a_character(ran, tmp_path):
    (row,) = read_in(ran, [{"prompt": ASKED[0], "text": HAND, "finish_reason": "stop"}], tmp_path)
    path = tmp_path / "hand.parquet"
    tables.write(pa.Table.from_pylist([row], schema=schemas.ROLLOUTS), path, schemas.ROLLOUTS)
    p = FORKS | {"max_forks": 50, "chunk_tokens": 1, "scheduler": "uniform"}
    out = stage("forks", tmp_path / "all", p, rollouts=path, tokenizer=ran.asking["tokenizer"])
    found = ran.read(out / "forks.parquet", schemas.FORKS)
    split = [x for x in range(len(row["token_ids"])) if lost_at(ran, row, x)]
    assert split  # characters of several tokens
    assert not {fork["position"] for fork in found} & set(split)
    assert all(HAND.startswith(fork["prefix_text"] + fork["chunk_text"]) for fork in found)
    assert len(found) > 10


def lost_at(ran, row, position):
    return ran.truth.decode(row["token_ids"][:position]).endswith(texts.LOST)


def test_a_continuation_inside_a_word_stays_in_the_word(ran):
    before = (
        ran.policy.prompt_ids(asked(ASKED[3]))
        + ran.truth.encode("the carr", add_special_tokens=False).ids
    )
    ids = texts.encode_after(ran.truth, before, "ied")
    assert ran.truth.decode([*before, *ids]).endswith("the carried")
    decode = functools.partial(texts.decode, ran.truth)
    assert texts.decode_after(decode, before, ids) == "ied"


def test_a_row_past_the_context_is_refused_before_anything_is_sampled(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ran.pretrain("short", layouts.folder(ran.layout, tmp_path / "hub", context=32))
    monkeypatch.setattr(hf, "generate", None)
    with pytest.raises(UserError, match=r"wanted at most 32, the model's context") as error:
        stage("rollout", tmp_path / "r", ROLLOUT, prompts=ran.prompts, policy=short)
    assert "prompts table, prompt_id train-" in str(error.value)
    assert not (tmp_path / "r" / "rollouts.parquet").exists()


def test_a_model_of_learned_positions_is_refused_past_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokens = layouts.fast(layouts.DISTILL)
    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 32}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokens), **sizes)).save_pretrained(tmp_path / "hub")
    tokens.save_pretrained(tmp_path / "hub")
    asking = problems(tmp_path / "prompts.parquet")
    init = {"init": {"kind": "hub", "name": str(tmp_path / "hub")}}
    p = {"model": MODEL | init, "prepare": TASK, "seed": 0}
    student = stage("pretrain", tmp_path / "student", p, prompts=asking)
    monkeypatch.setattr(hf, "generate", None)
    with pytest.raises(UserError, match="wanted at most 32, the model's context"):
        stage("rollout", tmp_path / "r", ROLLOUT, prompts=asking, policy=student)


def test_a_role_that_the_template_refuses_is_named_with_its_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    system = [{"role": "system", "content": "Add."}, *asked("1+1?")]
    asking = problems(tmp_path / "prompts.parquet", [("train", 9, system)])
    init = {"init": {"kind": "hub", "name": str(layouts.folder(layouts.GEMMA_3, tmp_path / "hub"))}}
    p = {"model": MODEL | init, "prepare": TASK, "seed": 0}
    student = stage("pretrain", tmp_path / "student", p, prompts=asking)
    p = ROLLOUT | {"prompts_per_round": len(ASKED) + 1}
    with pytest.raises(
        UserError, match=r"prompts table, prompt_id train-9 .*roles system, user"
    ) as e:
        stage("rollout", tmp_path / "r", p, prompts=asking, policy=student)
    assert "System role not supported" in str(e.value)
    assert "init.chat_template" in str(e.value)


def test_an_end_that_the_head_has_no_row_for_is_refused_with_the_remedy(tmp_path):
    folder = layouts.folder(layouts.GEMMA_3, tmp_path)
    model, tokens = pretrained.from_hub(HubInit(kind="hub", name=str(folder)))
    tokens.add_special_tokens({"extra_special_tokens": ["<|turn_end|>"]})
    tokens.chat_template = layouts.GEMMA.replace("<end_of_turn>", "<|turn_end|>")
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    with pytest.raises(UserError, match=r"<\|turn_end\|>.*has only 371 rows") as error:
        pretrained.from_hub(HubInit(kind="hub", name=str(folder)))
    assert "init.chat_template" in str(error.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("Gemma2", "final_logit_softcapping 30.0"),
        ("Cohere", "logit_scale 0.0625"),
        ("Granite", "logits_scaling 8.0"),
        ("Phi", "a bias of its head"),
    ],
)
def test_a_head_that_is_more_than_a_product_is_refused(model, said, tmp_path):
    layout = replace(layouts.MISTRAL_7, model=model, config=MORE.get(model, {}))
    folder = layouts.folder(layout, tmp_path)
    with pytest.raises(UserError, match=f"its config has {said}, wanted logits"):
        pretrained.from_hub(HubInit(kind="hub", name=str(folder)))


def test_the_head_is_the_product_that_the_model_itself_takes(ran):
    ids = torch.tensor([ran.rows[0]["prompt_token_ids"]])
    with torch.no_grad():
        own = ran.policy.model(input_ids=ids).logits
        found = ran.policy.head(ran.policy.model.base_model(input_ids=ids).last_hidden_state)
    assert torch.allclose(
        own[..., ~ran.policy.unused_vocab_mask], found[..., ~ran.policy.unused_vocab_mask]
    )


def smollm2(folder):
    """Prompts, and the student read in from the GGUF file that profile smollm2 names."""
    asking = problems(folder / "prompts.parquet")
    init = YAML(typ="safe").load((ROOT / "pipeline/commands/profiles" / "smollm2.yaml").read_text())
    model = MODEL | {"init": init["pretrain"]["models"]["beginner"]["init"]}
    p = {"model": model, "prepare": TASK, "seed": 0}
    return asking, stage("pretrain", folder / "student", p, prompts=asking)


def stand_behind_their_prefixes(path, rows, truth):
    own = {row["rollout_id"]: row["token_ids"] for row in rows}
    for answer in tables.read(path, schemas.ANSWERS).to_pylist():
        before = own[answer["rollout_id"]][: answer["position"]]
        both = truth.decode([*before, *answer["token_ids"]])
        assert both == truth.decode(before) + answer["text"]


@pytest.mark.slow  # 135 million parameters
def test_smollm2_from_its_gguf_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGMENTS_URL", f"sqlite:///{tmp_path / 'judgments.sqlite'}")
    asking, student = smollm2(tmp_path)
    folder = student / "checkpoint"
    truth = Tokenizer.from_file(str(folder / "tokenizer.json"))
    p = ROLLOUT | {"prompts_per_round": 2, "samples_per_prompt": 2, "max_new_tokens": 12}
    out = stage("rollout", tmp_path / "rollout", p, prompts=asking, policy=student)
    rollouts = {"rollouts": out / "rollouts.parquet"}
    rows = tables.read(rollouts["rollouts"], schemas.ROLLOUTS).to_pylist()
    (end,) = turn_ends.ends(folder)
    assert truth.id_to_token(end) == "<|im_end|>"
    for row in rows:
        shown = f"<|im_start|>user\n{ASKED[int(row['prompt_id'][-1])]}<|im_end|>\n"
        read = truth.decode(row["prompt_token_ids"], skip_special_tokens=False)
        assert read.endswith(f"{shown}<|im_start|>assistant\n")
        assert (row["finish_reason"] == "stop") == (row["token_ids"][-1] == end)
    tokenizer = {"tokenizer": folder / "tokenizer.json"}
    p = FORKS | {"max_forks": 1, "chunk_tokens": 4}
    out = stage("forks", tmp_path / "forks", p, **rollouts, **tokenizer)
    forks = {"forks": out / "forks.parquet"}
    hosted = {"kind": "openai_compatible", "provider": "other", "model": "stub-1"}
    with Pure(change=words).running() as server:
        api = {"base_url": f"{server.url}/v1", "concurrency": 4}
        Path("params.yaml").write_text(json.dumps({"teachers": {"t": api}}))
        for name, by, given in [
            ("prefill", {"tokenizer": "student", "continuation": "prefill"}, hosted),
            ("completions", {"tokenizer": "student"}, hosted),
            ("local", {}, {}),
        ]:
            p = TEACH | {"chunk_tokens": 4, "samples": 2} | by | given
            local = {} if given else {"teacher": student}
            out = stage(
                "teach", tmp_path / name, p, prompts=asking, **local, **rollouts, **forks,
                **tokenizer,
            )  # fmt: skip
            answers = {"answers": out / "answers.parquet"}
            stand_behind_their_prefixes(answers["answers"], rows, truth)
    out = stage("score", tmp_path / "score", SCORE | {"samples": 2}, **forks, **answers, **rollouts)
    scores = {"scores": out / "scores.parquet"}
    out = stage("prior", tmp_path / "prior", PRIOR | {"samples": 2}, **rollouts, **forks, **scores)
    targets = {"targets": out / "targets.parquet"}
    p = TRAIN | {"prompts_per_round": 2, "micro_batch_size": 2}
    out = stage(
        "train", tmp_path / "train", p, policy=student, reference=student, **rollouts, **targets
    )
    trained = out / "checkpoint"
    assert turn_ends.ends(trained) == (end,)
    assert checkpoints.fingerprint(trained) != checkpoints.fingerprint(folder)
    p = EVALUATE | {"problems": 1, "samples": 1, "max_new_tokens": 8}
    evals = stage("evaluate", tmp_path / "evals", p, prompts=asking, policy=out)
    graded = tables.read(evals / "evals.parquet", schemas.EVALS).to_pylist()
    assert {row["decoding"] for row in graded} == {"greedy", "sampled"}
    assert all(0 < row["tokens"] <= 8 for row in graded)
    monkeypatch.setattr(card, "card", lambda source: "")
    (tmp_path / "exported").mkdir()
    hub = importlib.import_module("pipeline.commands.exports.hf")
    hub.write(SimpleNamespace(checkpoint=trained), tmp_path / "exported")
    others = AutoTokenizer.from_pretrained(tmp_path / "exported")
    for text in (*layouts.TEXT, *ASKED, HAND):
        assert others.encode(text, add_special_tokens=False) == (
            truth.encode(text, add_special_tokens=False).ids
        )


@pytest.fixture
def installed(monkeypatch):
    """vLLM importable here and in what is started from here."""
    packages = str(small_engines.vllm_packages())
    monkeypatch.setattr(sys, "path", [*sys.path, packages])
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{packages}")


@pytest.mark.slow  # an engine takes 20 s to start
@pytest.mark.services
@pytest.mark.parametrize("layout", [*LAYOUTS, "smollm2"])
def test_vllm_ends_where_transformers_ends(layout, tmp_path, installed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if layout == "smollm2":
        asking, student = smollm2(tmp_path)
    else:
        asking = problems(tmp_path / "prompts.parquet")
        hub = layouts.folder(LAYOUTS[layout], tmp_path / "hub")
        p = {"model": MODEL | {"init": {"kind": "hub", "name": str(hub)}}}
        p |= {"prepare": TASK, "seed": 0}
        student = stage("pretrain", tmp_path / "student", p, prompts=asking)
    out = stage(
        "rollout", tmp_path / "r", ROLLOUT | {"engine": "vllm"}, prompts=asking, policy=student
    )
    rows = tables.read(out / "rollouts.parquet", schemas.ROLLOUTS).to_pylist()
    policy = hf.load(student / "checkpoint")
    ends, known = set(policy.ends), set(policy.tokenizer.get_vocab().values())
    for row in rows:
        ids = row["token_ids"]
        assert row["prompt_token_ids"] == policy.prompt_ids(
            asked(ASKED[int(row["prompt_id"].rpartition("-")[2])])
        )
        assert (row["finish_reason"] == "stop") == (ids[-1] in ends)
        assert not ends & set(ids[:-1])
        assert not set(ids) - known  # no row of the head that stands for no token
        assert row["text"] == policy.decode(ids)
        marks = () if layout == "smollm2" else LAYOUTS[layout].special
        assert not [x for x in marks if x in row["text"]]
    last = {row["token_ids"][-1] if row["finish_reason"] == "stop" else None for row in rows}
    assert last == {None, *ends} or layout == "smollm2"  # whose answers are its own matter
    told = json.loads((out / "run.json").read_text())
    assert told["engine_gap_max"] < 1e-3
