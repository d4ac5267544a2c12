"""Policies, baselines and controls that a round can be trained with, and what is said of others."""

import json
import re
from argparse import Namespace

import numpy as np
import pyarrow as pa
import pytest

from pipeline import teachers
from pipeline.config import params
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.judgments.keys import Request
from pipeline.method.objectives import imitate_forks
from pipeline.method.objectives.weighted import everywhere
from pipeline.plan import expand, experiment
from pipeline.teachers import protocol
from pipeline.teachers.purchase import requests
from stages import teach
from tests.config.test_params import URL, load
from tests.project import ROOT

RATIO = {"importance_ratio": "ratio"}
GRPO = {"train": {"objective": "grpo"}}
SAMPLED = {"train": {"objective": "opd-sampled"}}
ANOTHER = {"teach": {"problem": "another"}}
BEHAVIOUR = (
    " It weighs tokens by how likely the student was to sample them, and the rollouts' "
    "log-probabilities are those of plain sampling. Set "
)
ALIKE = (
    "wanted at least 0.01, usually 1. Greedy responses to a prompt are all alike, and a fork needs "
    "the entropy of a choice that was drawn. Evaluation decodes greedily by itself."
)
ONE_FORK = (
    "Its weight less its own mean is 0, and nothing would be trained. Raise "
    "rollout.samples_per_prompt, or forks.max_forks if another chunk fits."
)


def arm(tmp_path, *overrides):
    """The miniature with one arm besides omniopd, which it may control."""

    def edit(values):
        new = values["arms"]["new"] = {}
        for override in overrides:
            for block, found in override.items():
                new.setdefault(block, {}).update(found)
        values["experiment"]["arms"] = ["omniopd", "new"]

    return load(tmp_path, edit)


REFUSED = [
    ((GRPO, {"rollout": {"temperature": 0.7}}), "rollout.temperature: found 0.7, wanted 1 with "
     f"train.objective grpo.{BEHAVIOUR}rollout.temperature: 1, or use an objective without "
     "a ratio and train.importance_ratio: none."),
    ((GRPO, {"rollout": {"top_p": 0.9}}),
     f"rollout.top_p: found 0.9, wanted 1 with train.objective grpo.{BEHAVIOUR}rollout.top_p: 1"),
    ((GRPO, {"rollout": {"top_k": 20}}),
     f"rollout.top_k: found 20, wanted 0 with train.objective grpo.{BEHAVIOUR}rollout.top_k: 0"),
    ((SAMPLED, {"rollout": {"top_p": 0.9}, "train": RATIO}),
     "rollout.top_p: found 0.9, wanted 1 with train.objective opd-sampled."),
    ((SAMPLED, {"rollout": {"temperature": 1.2}, "train": {"batch_size": 32}}),  # one step
     "rollout.temperature: found 1.2, wanted 1 with train.objective opd-sampled."),
    (({"rollout": {"temperature": 1.2}, "train": RATIO},),
     "rollout.temperature: found 1.2, wanted 1 with train.importance_ratio ratio."),
    (({"rollout": {"top_k": 5}, "train": RATIO | {"objective": "rft"}},),
     "rollout.top_k: found 5, wanted 0 with train.importance_ratio ratio."),
    ((SAMPLED,), "train.importance_ratio: found 'none', wanted ratio with objective opd-sampled "
     "and several optimizer steps a round. Tokens that the student likes better than the teacher "
     "are pushed ever lower once the student has moved. Set train.importance_ratio: ratio, or "
     "raise train.batch_size to all responses of a round."),
    ((SAMPLED, {"train": {"batch_size": 32, "epochs": 2}}),
     "train.importance_ratio: found 'none', wanted ratio with objective opd-sampled and several"),
    (({"train": {"baseline": "batch"}},), "train.importance_ratio: found 'none', wanted ratio with "
     "baseline batch and several optimizer steps a round. Weights below 0 push a token ever lower "
     "once the student has moved. Set train.importance_ratio: ratio"),
    (({"rollout": {"samples_per_prompt": 1}, "forks": {"max_forks": 1},
       "train": {"baseline": "prompt"}},),
     f"train.baseline: found 'prompt', wanted none, as a prompt has one fork at most. {ONE_FORK}"),
    (({"rollout": {"samples_per_prompt": 1, "max_new_tokens": 11},  # one chunk of 6 fits
       "train": {"baseline": "prompt"}},), f"train.baseline: found 'prompt', wanted none, as a "
     f"prompt has one fork at most. {ONE_FORK}"),
    (({"rollout": {"samples_per_prompt": 1, "prompts_per_round": 1}, "forks": {"max_forks": 1},
       "train": {"baseline": "batch"}},),
     f"train.baseline: found 'batch', wanted none, as a round has one fork at most. {ONE_FORK}"),
    (({"prior": {"source": "constant", "controls": "omniopd"},
       "train": RATIO | {"baseline": "prompt"}},),
     "train.baseline: found 'prompt', wanted none with prior.source constant. Equal weights less "
     "their mean are 0, and nothing would be trained."),
    (({"rollout": {"temperature": 0}},), f"rollout.temperature: found 0.0, {ALIKE}"),
    (({"rollout": {"temperature": 1e-30}},), f"rollout.temperature: found 1e-30, {ALIKE}"),
    (({"teach": {"temperature": 0.0}},), "teach.temperature: found 0.0, wanted at least 0.01, "
     "usually 1. Greedy continuations of a fork are all alike: teach.samples of them say no more "
     "than one."),
    ((ANOTHER, {"train": {"objective": "opd"}}), "teach.problem: found 'another', wanted own with "
     "train.objective opd. It reads the teacher's logits; another problem is shown where the "
     "teacher answers at forks. Use omniopd or imitate-forks."),
    ((ANOTHER, {"train": {"objective": "sft"}}), "teach.problem: found 'another', wanted own with "
     "train.objective sft. It trains on whole solutions of the problem itself;"),
    ((ANOTHER, GRPO), "teach.problem: found 'another', wanted own with train.objective grpo. It "
     "trains on no answer;"),
    ((ANOTHER, {"prior": {"source": "none"}}), "teach.problem: found 'another', wanted own with "
     "prior.source none. It trains on no answer;"),
    ((ANOTHER, {"score": {"source": "zero"}}), "teach.problem: found 'another', wanted own with "
     "score.source zero. It trains on no answer;"),
    ((ANOTHER, {"rollout": {"prompts_per_round": 1}}), "rollout.prompts_per_round: found 1, wanted "
     "at least 2 with teach.problem another. A round of one problem has no other to show."),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "said"), REFUSED, ids=[said[:60] for _, said in REFUSED])
def test_what_cannot_be_trained_on_soundly_is_refused_with_its_reason(tmp_path, overrides, said):
    with pytest.raises(UserError, match=re.escape(f"params.yaml: arms.new: {said}")):
        arm(tmp_path, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ({"rollout": {"temperature": 0.7, "top_p": 0.9, "top_k": 20}},),  # no ratio anywhere
        ({"rollout": {"temperature": 0.7}, "train": RATIO | {"objective": "gkd"}},),  # reads none
        (GRPO,),
        (SAMPLED, {"train": RATIO}),
        (SAMPLED, {"train": {"batch_size": 32}}),  # all responses in one step
        ({"rollout": {"samples_per_prompt": 1}, "train": {"baseline": "prompt", "batch_size": 8}},),
        ({"forks": {"max_forks": 1}, "train": RATIO | {"baseline": "prompt"}},),
        ({"train": {"baseline": "prompt", "objective": "opd"}},),  # reads no baseline
        (ANOTHER,),
        (ANOTHER, {"score": {"source": "shuffled"}}),
        (ANOTHER, {"train": {"objective": "imitate-forks"}}),
    ],
)
def test_what_is_sound_loads(tmp_path, overrides):
    assert arm(tmp_path, *overrides).arm("new")


def test_shipped_arms_of_opd_sampled_correct_their_drift():
    for path in (ROOT / "params.yaml", ROOT / "pipeline/commands/profiles/study.yaml"):
        assert experiment.load(path).arm("opd-sampled").train.importance_ratio == "ratio"


# arm anchor-all


def test_anchor_all_of_imitate_forks_is_on_the_response_and_not_on_what_the_teacher_wrote():
    rollouts = pa.Table.from_pylist(
        [{"rollout_id": "a", "prompt_token_ids": [1], "token_ids": [4] * 6, "logprobs": [-0.5] * 6}]
    )
    forks = pa.table({"rollout_id": ["a"], "position": [2], "length": [3]})
    answers = pa.Table.from_pylist(
        [{"rollout_id": "a", "position": 2, "sample": 0, "token_ids": [7, 8], "ended": False}]
    )
    (outside,) = found = imitate_forks.examples(rollouts, forks, answers, 1, 0)
    assert [s.anchor_T.tolist() for s in outside.sequences] == [
        [True, True, False, False, False, True],
        [False, False],
    ]
    (whole,) = everywhere(found)
    assert [s.anchor_T.tolist() for s in whole.sequences] == [[True] * 6, [False, False]]
    assert [s.signal_T.tolist() for s in whole.sequences] == [[False] * 6, [True, True]]


# arm wrong-teacher, where another problem is shown


def problems(folder, questions):
    rows = [
        {
            "prompt_id": f"p{i}",
            "task": "prompts",
            "split": "train",
            "messages": json.dumps([{"role": "user", "content": question}]),
            "prompt": question,
            "answer": "",
        }
        for i, question in enumerate(questions)
    ]
    path = folder / "prompts.parquet"
    tables.write(pa.Table.from_pylist(rows, schema=schemas.PROMPTS), path, schemas.PROMPTS)
    return path


@pytest.mark.parametrize(
    "questions", ["ab", "abcde", "aabb", "aabc", "abcabc", "abacad", "bbbaacc"]
)
def test_each_problem_is_shown_for_one_other_that_differs(tmp_path, questions):
    path, count = problems(tmp_path, questions * 2), len(questions)  # two rounds
    for seed in range(20):
        for round_ in (1, 2):
            shown = requests.Others(seed, count).of(path, round_)
            names = [f"p{i}" for i in range((round_ - 1) * count, round_ * count)]
            assert sorted(shown) == sorted(shown.values()) == sorted(names)
            text = {f"p{i}": question for i, question in enumerate(questions * 2)}
            assert all(text[own] != text[other] for own, other in shown.items())


def test_who_is_shown_is_a_function_of_seed_and_round(tmp_path):
    path = problems(tmp_path, [f"{i}+{i}?" for i in range(24)])

    def shown(seed, round_, count=8):
        found = requests.Others(seed, count).of(path, round_)
        first = min(int(name[1:]) for name in found)
        return [int(found[f"p{first + i}"][1:]) - first for i in range(count)]

    assert shown(0, 1) == shown(0, 1)
    assert len({tuple(shown(seed, round_)) for seed in range(3) for round_ in (1, 2, 3)}) == 9


def test_a_round_of_mostly_one_problem_has_no_other_to_show(tmp_path):
    said = (
        "2 of the 3 problems of round 1 are equal, wanted at most half: teach.problem another "
        "shows each response's teacher another problem. Prepare more different problems, or raise "
        "rollout.prompts_per_round."
    )
    with pytest.raises(UserError, match=re.escape(said)):
        requests.Others(0, 3).of(problems(tmp_path, "aab"), 1)


def round_of(folder, questions):
    """Two responses to each problem with a fork each, and the arguments of stage teach."""
    names = [f"p{i}-{sample}" for i in range(len(questions)) for sample in (0, 1)]
    rows = [
        {
            "rollout_id": name,
            "prompt_id": name.partition("-")[0],
            "sample": int(name[-1]),
            "round": 1,
            "prompt_token_ids": [2, 3],
            "token_ids": [4, 5, 6],
            "logprobs": np.zeros(3, np.float32),
            "entropies": np.zeros(3, np.float32),
            "text": "xyz",
            "finish_reason": "length",
            "reward": None,
        }
        for name in names
    ]
    forks = [
        {
            "rollout_id": name,
            "fork": 0,
            "position": 1,
            "length": 2,
            "entropy": 0.0,
            "prefix_text": f"so {name}",
            "chunk_text": "yz",
            "ended": False,
        }
        for name in names
    ]
    path = {"rollouts": rows, "forks": forks}
    for name, schema in (("rollouts", schemas.ROLLOUTS), ("forks", schemas.FORKS)):
        table = pa.Table.from_pylist(path[name], schema=schema)
        tables.write(table, folder / f"{name}.parquet", schema)
    paths = {name: folder / f"{name}.parquet" for name in path}
    return Namespace(prompts=problems(folder, questions), **paths)


def taught(file, name, seed=0):
    """What stage teach of an arm's first round is given, and its cells."""
    found = expand.expand(file)["cells"]
    stages = found["arms"][name][f"seed-{seed}"]["round-1"]
    (cell,) = (found[g][stages["teach"]] for g in expand.GROUPS if stages["teach"] in found[g])
    return cell["params"], stages


def hosted(tmp_path, seeds=(0,)):
    def edit(values):
        values["experiment"] |= {"arms": ["omniopd", "wrong-teacher"], "seeds": list(seeds)}
        values["arms"] = {"omniopd": {}, "wrong-teacher": ANOTHER}
        api = {"kind": "openai_compatible", "model": "m", "base_url": URL}
        values["teachers"] = {"api": api}
        values["teach"] |= {"teacher": "api", "continuation": "prefill"}

    return load(tmp_path, edit)


def test_a_wrong_teacher_reads_another_problem_and_the_students_own_text(tmp_path):
    file, questions = hosted(tmp_path), [f"{i}+{i}?" for i in range(8)]
    config = file.teachers["api"]
    asked = protocol.Asked("prefill", 1.0, "live", params.Runtime())
    teacher = teachers.load(config, "api", asked, None, None)
    args = round_of(tmp_path, questions)
    read, keys = {}, {}
    for name in ("omniopd", "wrong-teacher"):
        p = teach.TeachParams.model_validate_json(json.dumps(taught(file, name)[0]))
        for response in teach._asked(teacher, args, p):
            sent = json.loads(response.prompts[1])
            assert sent[-1] == {"role": "assistant", "content": f"so {response.id}"}
            read[name, response.id] = sent[0]["content"]
            request = Request("other", "m", response.prompts[1], "prefill", {}, 0, None)
            keys[name, response.id] = request.key
    shown = requests.Others(0, 8).of(args.prompts, 1)
    for name in [f"p{i}-{sample}" for i in range(8) for sample in (0, 1)]:
        own = int(name[1])
        assert read["omniopd", name] == questions[own]
        assert read["wrong-teacher", name] == questions[int(shown[f"p{own}"][1:])]
    assert not {keys["omniopd", n] for a, n in keys} & {keys["wrong-teacher", n] for a, n in keys}


def test_a_wrong_teacher_shares_the_round_and_draws_from_the_seed(tmp_path):
    file = hosted(tmp_path, seeds=(0, 3))
    own, right = taught(file, "omniopd", 3)
    wrong, swapped = taught(file, "wrong-teacher", 3)
    assert wrong == own | {"problem": "another", "seed": 3}
    assert (swapped["rollout"], swapped["forks"]) == (right["rollout"], right["forks"])
    assert swapped["teach"] != right["teach"]
    assert taught(file, "wrong-teacher", 0)[0]["seed"] == 0


@pytest.mark.parametrize(
    "name", ["laptop-gpu", "qwen3-claude-haiku", "qwen3-gemini", "qwen3-openweight", "smollm2"]
)
def test_profiles_of_real_models_have_a_wrong_teacher(name):
    file = experiment.load(ROOT / "pipeline/commands/profiles" / f"{name}.yaml")
    settings = file.arm("wrong-teacher")
    assert settings.teach.problem == "another"
    assert settings.teach.teachers == file.teach.teachers  # the right one
