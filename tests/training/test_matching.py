"""experiment.match: a prefix of the round's prompts, by what they really took, and no more."""

import json
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from pipeline.commands.estimate import estimate
from pipeline.config.renamed import in_cells
from pipeline.config.teachers import Price
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.method import objectives
from pipeline.plan import budget_caps, expand
from pipeline.training.evidence import budget_matching, gathering, train_params
from tests.config.test_params import load, put
from tests.project import MINIATURE

pytestmark = pytest.mark.usefixtures("warm")

PROMPTS = ["p2", "p0", "p1"]  # the round's order is not that of their names
SIZES = {"p2": [3, 2], "p0": [4, 1], "p1": [2, 2]}  # tokens of the responses to each prompt
FORKS = {"p2-0": 2, "p0-0": 1, "p0-1": 1, "p1-1": 1}  # answered twice, 6 tokens each; p2-1 has none


def rollouts(right=("p2-0", "p0-1", "p1-0")):
    rows = []
    for prompt in PROMPTS:
        for sample, size in enumerate(SIZES[prompt]):
            name = f"{prompt}-{sample}"
            rows.append(
                {
                    "rollout_id": name,
                    "prompt_id": prompt,
                    "sample": sample,
                    "round": 1,
                    "prompt_token_ids": [1],
                    "token_ids": [5] * size,
                    "logprobs": [-1.0] * size,
                    "entropies": [1.0] * size,
                    "text": "x",
                    "finish_reason": "stop",
                    "reward": float(name in right),
                }
            )
    return pa.Table.from_pylist(rows, schema=schemas.ROLLOUTS)


def answers(ids=None, ended=True):
    """Two answers at each fork of `ids`; of full solutions without, written in 3 to 5 tokens."""
    places = [(name, p) for name, n in (ids or {}).items() for p in range(n)]
    if ids is None:
        places = [(prompt, 0) for prompt in PROMPTS]
    rows = [
        {
            "rollout_id": name,
            "position": position,
            "sample": sample,
            "teacher": "t",
            "text": "abc"[: 2 + PROMPTS.index(name)] if ids is None else "a",
            "ended": ended,
            "finish_reason": "stop" if ended else "length",
            "model_returned": "m",
            "prompt_tokens": 10,
            "completion_tokens": 3 + PROMPTS.index(name) if ids is None else 6,
            "request_key": "k",
            "token_ids": [9] * (min(2 + PROMPTS.index(name), 3) if ids is None else 1),
        }
        for name, position in places
        for sample in range(2)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.ANSWERS)


def targets():
    rows = [
        {
            **{"rollout_id": name, "position": p, "length": 1, "n": 2},
            **{"k_sem": 1.0, "pi_bar": 0.5, "pi_hat": 0.5, "posterior_sd": 0.1},
            "weight": 0.25 if name.startswith("p2") else 0.75,
        }
        for name, count in FORKS.items()
        for p in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.TARGETS)


def forks():
    rows = [
        {
            **{"rollout_id": name, "fork": p, "position": p, "length": 1, "entropy": 1.0},
            **{"prefix_text": "", "chunk_text": "x", "ended": False},
        }
        for name, count in FORKS.items()
        for p in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.FORKS)


# the cut


def test_prompts_are_kept_in_order_for_as_long_as_they_fit():
    costs = {"b": 3, "a": 4, "c": 2, "d": 0}
    assert budget_matching.kept_prompts(costs, 2) == []
    assert budget_matching.kept_prompts(costs, 3) == ["b"]
    # c would fit instead of a; a comes first
    assert budget_matching.kept_prompts(costs, 8) == ["b", "a"]
    assert budget_matching.kept_prompts(costs, 9) == ["b", "a", "c", "d"]


def test_the_cap_is_never_passed_and_the_next_prompt_would_pass_it():
    draw = np.random.default_rng(0)
    for _ in range(200):
        costs = {str(i): int(c) for i, c in enumerate(draw.integers(0, 50, draw.integers(1, 30)))}
        cap = int(draw.integers(1, 400))
        kept = budget_matching.kept_prompts(costs, cap)
        assert kept == list(costs)[: len(kept)]
        assert sum(costs[name] for name in kept) <= cap
        if len(kept) < len(costs):
            assert sum(list(costs.values())[: len(kept) + 1]) > cap


def test_the_rounding_of_dollars_cuts_nothing_that_fits():
    assert budget_matching.kept_prompts({"a": 0.1, "b": 0.1, "c": 0.1}, 0.3) == ["a", "b", "c"]


def by_prompt(priced):
    found = {}
    for row in priced:
        found[row.prompt] = found.get(row.prompt, 0) + row.cost
    return found


def test_costs_of_a_prompt_are_hand_computed():
    prompt_of = dict(
        zip(*(rollouts()[n].to_pylist() for n in ("rollout_id", "prompt_id")), strict=True)
    )
    audited = budget_matching.by_answers([answers(FORKS)], prompt_of, None)
    assert by_prompt(audited) == {"p2": 24, "p0": 24, "p1": 12}
    assert list(by_prompt(audited)) == PROMPTS
    price = Price(input=1e6, output=1e5)  # 1 dollar a token read, 0.1 one written
    dollars = by_prompt(budget_matching.by_answers([answers(FORKS)], prompt_of, price))
    assert dollars == pytest.approx({"p2": 42.4, "p0": 42.4, "p1": 21.2})
    solved = budget_matching.by_answers([answers()], None, None)
    assert by_prompt(solved) == {"p2": 6, "p0": 8, "p1": 10}
    assert [row.responses for row in solved] == [2, 2, 2]
    written = budget_matching.by_rollouts([rollouts()], only_right=False)
    assert by_prompt(written) == {"p2": 5, "p0": 5, "p1": 4}
    right = budget_matching.by_rollouts([rollouts()], only_right=True)
    assert by_prompt(right) == {"p2": 3, "p0": 1, "p1": 2}
    # two solutions each, of 2, 3 and 3 characters and an end
    assert by_prompt(budget_matching.by_solutions([answers()])) == {"p2": 6, "p0": 8, "p1": 8}
    assert by_prompt(budget_matching.by_solutions([answers(ended=False)]))["p2"] == 0


def test_answers_to_other_rollouts_are_refused():
    with pytest.raises(UserError, match="p2-0 is not among the rollouts"):
        budget_matching.by_answers([answers(FORKS)], {"p9-0": "p9"}, None)


# the stage

STUDENT = SimpleNamespace(
    ends=(0,),
    prompt_ids=lambda messages: [len(messages[0]["content"])],
)
SETTINGS = {
    **{"lr": 1e-3, "batch_size": 2, "micro_batch_size": 2, "epochs": 1, "reduce": "response_sum"},
    **{"optimizer": "reset", "betas": (0.9, 0.98), "warmup_steps": 0, "clip": 1.0, "seed": 0},
    **{"round": 1, "prompts_per_round": 3},
}


@pytest.fixture
def gather(tmp_path):
    """gather(objective, match, cap, ...) of the round above: responses and what run.json says."""
    problems = [
        {
            **{"prompt_id": name, "task": "t", "split": "train", "prompt": name, "answer": "1"},
            "messages": json.dumps([{"role": "user", "content": "x" * i}]),
        }
        for i, name in enumerate(PROMPTS, 1)
    ]
    found = {
        "rollouts": (rollouts(), schemas.ROLLOUTS),
        "targets": (targets(), schemas.TARGETS),
        "forks": (forks(), schemas.FORKS),
        "audited": (answers(FORKS), schemas.ANSWERS),
        "solved": (answers(), schemas.ANSWERS),
        "prompts": (pa.Table.from_pylist(problems, schema=schemas.PROMPTS), schemas.PROMPTS),
    }
    for name, (table, schema) in found.items():
        tables.write(table, tmp_path / f"{name}.parquet", schema)

    def gathered(objective, match=None, cap=None, **changes):
        paths = dict.fromkeys(("rollouts", "targets", "forks", "answers", "prompts"))
        paths |= {name: tmp_path / f"{name}.parquet" for name in ("rollouts", "prompts")}
        if objective == "sft":
            paths |= {"rollouts": None, "answers": tmp_path / "solved.parquet"}
        if objective in ("omniopd", "imitate-forks"):
            paths["answers"] = tmp_path / "audited.parquet"
        if objective == "omniopd":
            paths["targets"] = tmp_path / "targets.parquet"
        if objective in ("imitate-forks", "opd-forks"):
            paths["forks"] = tmp_path / "forks.parquet"
        settings = SETTINGS | changes | {"objective": objective, "match": match, "cap": cap}
        declared = objectives.declared(objective)
        model = train_params.of(declared)
        read = {"beta": 0.1, "correction": "none"} | settings
        p = model(**{key: read[key] for key in in_cells(model) if key in read})
        return gathering.gather(p, declared, Namespace(**paths), STUDENT)

    return gathered


CASES = [  # objective, match, cap: prompts kept, their cost; all prompts cost 24, 24, 12 and so on
    ("omniopd", "teacher_output_tokens", 47, 1, 24),
    ("omniopd", "teacher_output_tokens", 48, 2, 48),
    ("imitate-forks", "teacher_output_tokens", 29, 2, 24),  # one answer of two at each fork
    ("omniopd", "usd", 84.8, 2, 84.8),
    ("sft", "teacher_output_tokens", 23, 2, 14),
    ("sft", "usd", 20.7, 1, 20.6),
    ("omniopd", "student_tokens", 10, 2, 10),
    ("imitate-forks", "student_tokens", 9, 1, 5),
    ("opd", "student_tokens", 14, 3, 14),
    ("opd-forks", "student_tokens", 13, 2, 10),
    ("gkd", "student_tokens", 5, 1, 5),
    ("opd-sampled", "student_tokens", 5, 1, 5),
    ("grpo", "student_tokens", 13, 2, 10),
    ("rft", "student_tokens", 4, 2, 4),
    ("sft", "student_tokens", 14, 2, 14),
]


@pytest.mark.parametrize(("objective", "match", "cap", "kept", "used"), CASES)
def test_each_objective_trains_on_the_first_prompts_that_fit(
    gather, objective, match, cap, kept, used
):
    price = {"price": Price(input=1e6, output=1e5)} if match == "usd" else {}
    whole, work = gather(objective), gather(objective, match, cap, **price)
    other = gather(objective, match, cap, **price, seed=5, batch_size=1)  # another batch order
    assert whole.matched is None
    assert work.matched["used"] == pytest.approx(used)
    assert work.matched["used"] <= cap
    assert (work.matched["kept_prompts"], work.matched["cut_prompts"]) == (kept, 3 - kept)
    assert work.matched["kept_responses"] == 2 * kept
    assert work.matched["cut_responses"] == 6 - 2 * kept
    expected = [tokens(example) for example in whole.examples][: len(work.examples)]
    assert [tokens(example) for example in work.examples] == expected
    responses = 2 * kept if objective != "rft" else kept  # one of each prompt is right
    assert len(work.examples) == responses
    assert [tokens(example) for example in other.examples] == expected
    assert other.matched == work.matched
    if match == "student_tokens" and objective != "imitate-forks":
        assert used == sum(len(s.token_ids) for e in work.examples for s in e.sequences)


def tokens(example):
    return [(s.context_ids, s.token_ids, s.weight_T.tolist()) for s in example.sequences]


def test_matched_steps_are_the_first_of_the_rounds_order(gather):
    whole = gather("opd", epochs=2)
    work = gather("opd", "optimizer_steps", 4, epochs=2)
    assert [list(batch) for batch in work.steps] == [list(batch) for batch in whole.steps[:4]]
    assert len(whole.steps) == 6
    assert work.matched["used"] == work.matched["kept_steps"] == 4
    assert work.matched["cut_steps"] == 2
    assert len(work.examples) == 6
    assert gather("opd", "optimizer_steps", 9).matched["cut_steps"] == 0


def test_the_mean_weight_is_recorded_with_and_without_the_cut(gather):
    counts = gather("omniopd", "teacher_output_tokens", 24).matched
    assert counts["mean_weight"] == pytest.approx(0.25)
    assert counts["mean_weight_uncut"] == pytest.approx((2 * 0.25 + 3 * 0.75) / 5)
    assert counts["answer_tokens_kept"] == 24


def test_a_cap_that_keeps_nothing_is_refused_with_the_first_prompts_cost(gather):
    said = r"found a cap of 23 teacher_output_tokens a round, wanted at least the 24 of .* p2\. Rai"
    with pytest.raises(UserError, match=said):
        gather("omniopd", "teacher_output_tokens", 23)


# the plan

ARMS = list(YAML(typ="safe").load(MINIATURE.read_text())["arms"])


def matched(tmp_path, match, budget=None, arms=ARMS, edit=lambda values: None):
    def all_(values):
        values["experiment"].update(match=match, budget=budget, arms=list(arms))
        edit(values)

    return load(tmp_path, all_)


def train_cells(found):
    """Params of each arm's train cell with its group, by arm."""
    groups = {key: (g, c) for g, cells in found["cells"].items() for key, c in cells.items()}
    arms = found["cells"]["arms"]
    return {
        arm: groups[seeds["seed-0"]["round-1"]["train"]]
        for arm, seeds in arms.items()
        if arm != "base"
    }


def test_match_null_leaves_the_plan_as_it_is_without_the_key(tmp_path):
    without = load(tmp_path, put("experiment.arms", ARMS))
    null = matched(tmp_path, None)
    assert expand.expand(null) == expand.expand(without)
    assert "cap" not in json.dumps(expand.expand(null))


def test_only_arms_that_use_the_resource_are_capped(tmp_path):
    free = {"opd", "opd-sampled", "opd-forks", "gkd", "grpo", "rft", "one-sided"}
    free |= {"zero-score", "prior-only", "chunk-logprob"}  # omniopd that asks for no answer
    refused = ("multi-teacher", "prompt-gate")
    arms = [name for name in ARMS if name not in refused]
    before = train_cells(expand.expand(matched(tmp_path, None, arms=arms)))
    expanded = expand.expand(matched(tmp_path, "teacher_output_tokens", arms=arms))
    found = train_cells(expanded)
    for arm, (group, cell) in found.items():
        if arm in free:
            assert (group, cell) == before[arm]
            continue
        assert cell["params"]["match"] == "teacher_output_tokens"
        assert cell["params"]["cap"] == 320  # of sft: 8 prompts, 2 samples, 20 tokens
        assert group == {"train": "train-matched"}.get(before[arm][0], before[arm][0])
        assert "answers" in cell
    (report,) = expanded["cells"]["report"].values()
    assert set(report["params"]["match"]["free"]) == free
    for match in ("student_tokens", "optimizer_steps"):
        capped = train_cells(expand.expand(matched(tmp_path, match, 7)))
        assert {cell["params"]["cap"] for _, cell in capped.values()} == {7}
        assert [group for group, _ in capped.values()] == [
            group for group, _ in train_cells(expand.expand(matched(tmp_path, None))).values()
        ]


def test_a_control_is_cut_by_the_answers_of_the_arm_that_it_controls(tmp_path):
    def two_rounds(values):
        values["experiment"]["rounds"] = 2

    arms = ["omniopd", "constant-scores"]
    found = expand.expand(matched(tmp_path, "teacher_output_tokens", 100, arms, two_rounds))
    rounds = {arm: found["cells"]["arms"][arm]["seed-0"] for arm in arms}
    for name in ("round-1", "round-2"):
        cell = found["cells"]["train-matched"][rounds["constant-scores"][name]["train"]]
        assert cell["answers"] == rounds["omniopd"][name]["teach"]
        assert "teach" not in rounds["constant-scores"][name]


def branched(tmp_path, match, branch, budget=100, edit=lambda values: None):
    def edits(values):
        values["experiment"].update(rounds=2, branch=branch)
        edit(values)

    return matched(tmp_path, match, budget, ["omniopd"], edits)


@pytest.mark.parametrize("match", ["teacher_output_tokens", "usd"])
def test_branches_are_cut_by_the_same_answers_as_their_rounds(tmp_path, match):
    controls = ["shuffled-scores", "constant-scores"]
    found = expand.expand(branched(tmp_path, match, controls, edit=priced))["cells"]
    for control in controls:
        for name, own in found["branches"][control]["seed-0"].items():
            real = found["arms"]["omniopd"]["seed-0"][name]
            cells = [found["train-matched"][stages["train"]] for stages in (own, real)]
            assert {key for key in cells[0] if cells[0][key] != cells[1][key]} == {"targets"}
            assert cells[0]["answers"] == real["teach"]
            assert cells[0]["params"]["cap"] == 100


@pytest.mark.parametrize("control", ["zero-score", "prior-only"])
def test_a_branch_that_would_not_be_cut_as_its_round_is_refused(tmp_path, control):
    said = (
        rf"experiment\.branch: found \['{control}'\], wanted controls that use "
        rf"teacher_output_tokens as omniopd does; omniopd does, {control} does not\. Take {control}"
    )
    with pytest.raises(UserError, match=said):
        branched(tmp_path, "teacher_output_tokens", [control])
    # whatever both use, both are cut by
    found = expand.expand(branched(tmp_path, "student_tokens", [control]))["cells"]
    assert {cell["params"]["cap"] for cell in found["train"].values()} == {100}
    assert branched(tmp_path, None, [control], None)


def test_a_price_is_part_of_a_cell_only_where_dollars_are_matched(tmp_path):
    found = matched(tmp_path, "usd", 0.5, ["omniopd", "grpo"], priced)
    _, cell = train_cells(expand.expand(found))["omniopd"]
    assert cell["params"]["price"] == {"input": 1.0, "output": 5.0}
    assert cell["params"]["cap"] == 0.5
    _, cell = train_cells(expand.expand(matched(tmp_path, "student_tokens", 9, edit=priced)))["sft"]
    assert "price" not in cell["params"]


def priced(values):
    values["teachers"]["api"] = {
        **{"kind": "openai_compatible", "model": "m", "base_url": "http://127.0.0.1:9/v1"},
        **{"price": {"input": 1.0, "output": 5.0}, "tokenizer": "student"},
    }
    values["arms"]["omniopd"] = {"teach": {"teacher": "api"}}


CEILINGS = [  # arm, resource, of the miniature by hand
    ("omniopd", "teacher_output_tokens", 8 * 4 * 3 * 3 * 6),
    ("sft", "teacher_output_tokens", 8 * 2 * 20),
    ("omniopd", "student_tokens", 8 * 4 * 20),
    ("sft", "student_tokens", 8 * 2 * 20),
    ("omniopd", "optimizer_steps", 2),
    ("sft", "optimizer_steps", 1),
    ("imitate-forks", "student_tokens", 8 * 4 * 20),
]


@pytest.mark.parametrize(("arm", "resource", "most"), CEILINGS)
def test_ceilings_are_hand_computed_and_those_of_the_estimate(
    tmp_path, monkeypatch, arm, resource, most
):
    file = matched(tmp_path, None, arms=["omniopd", "sft", "imitate-forks"])
    assert budget_caps.ceiling(file.arm(arm), resource) == most
    expanded = expand.expand(file)
    key = expanded["cells"]["arms"][arm]["seed-0"]["round-1"]["teach"]
    ((group, cell),) = estimate.asked(expanded, key)
    monkeypatch.chdir(tmp_path)
    guess = estimate._guessed(file.arm(arm), file.teachers["carries"], cell, group)
    if resource == "teacher_output_tokens":
        assert guess.output_tokens == most


def test_imitate_forks_is_charged_what_it_imitates(tmp_path, gather):
    bought, imitated = "teacher_output_tokens", 2  # of three answers
    file = matched(tmp_path, bought, arms=["omniopd", "imitate-forks"])
    arm = file.arm("imitate-forks")
    assert (arm.teach.samples, arm.train.answers) == (3, imitated)
    assert budget_caps.ceiling(arm, bought) == 8 * 4 * 3 * imitated * 6
    assert budget_caps.cap(file) == 8 * 4 * 3 * imitated * 6
    price = Price(input=1e6, output=1e5)  # 10.6 dollars an answer; p2 and p0 have 2 forks
    assert gather("imitate-forks", "usd", 42.4, price=price).matched["used"] == 42.4
    both = gather("imitate-forks", "usd", 42.4, price=price, answers=2).matched
    assert (both["used"], both["kept_prompts"], both["answer_tokens_kept"]) == (42.4, 1, 24)


def test_the_default_cap_is_the_smallest_ceiling_of_the_arms_that_use_it(tmp_path):
    def cap(match, arms, budget=None):
        return budget_caps.cap(matched(tmp_path, match, budget, arms))

    assert cap("teacher_output_tokens", ["omniopd", "grpo"]) == 1728
    assert cap("teacher_output_tokens", ["omniopd", "sft"]) == 320
    assert cap("student_tokens", ["omniopd", "grpo"]) == 640
    assert cap("optimizer_steps", ARMS) == 1
    assert cap("optimizer_steps", ARMS, 3.0) == 3
    assert cap(None, ARMS) is None


REFUSED = [
    ({"match": "tokens"}, r"experiment\.match: found 'tokens', wanted"),
    ({"match": None, "budget": 5}, r"experiment\.budget: found 5\.0, wanted nothing without"),
    ({"match": "optimizer_steps", "budget": 0}, r"experiment\.budget: found 0, wanted"),
    ({"match": "student_tokens", "budget": 1.5}, r"found 1\.5, wanted a whole number of student"),
    ({"match": "usd"}, r"experiment\.budget: found None, wanted dollars an arm and round"),
    (
        {"match": "usd", "budget": 1},
        r"a price in arm omniopd, and teachers\.carries has none",
    ),
    ({"match": "teacher_output_tokens", "arms": ["grpo"]}, r"a resource that an arm uses\. None"),
    (
        {"match": "teacher_output_tokens", "arms": ["omniopd", "multi-teacher"]},
        r"one teacher in arm multi-teacher, not \['carries', 'never-carries'\]",
    ),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_bad_budgets_are_refused_by_key_value_and_remedy(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        load(tmp_path, lambda values: values["experiment"].update(changes))


def test_a_control_with_other_rollouts_is_refused(tmp_path):
    def edit(values):
        values["arms"]["constant-scores"]["rollout"] = {"samples_per_prompt": 2}

    matched(tmp_path, "student_tokens", 50, ["omniopd", "constant-scores"], edit)
    with pytest.raises(UserError, match="as many prompts and samples in arm constant-scores as in"):
        matched(tmp_path, "teacher_output_tokens", 50, ["omniopd", "constant-scores"], edit)


# the DAG


def run_json(project, arm, stage="train"):
    return json.loads((project.cell(arm, 1, stage) / "run.json").read_text())


@pytest.mark.slow
def test_arms_are_trained_under_an_equal_budget_and_say_what_was_cut(small, tmp_path):
    project = small.copy(tmp_path / "project")
    arms = ["omniopd", "sft", "shuffled-scores", "constant-scores", "grpo"]
    project.edit(experiment__match="teacher_output_tokens", experiment__arms=arms)
    ran = [name.partition("@")[0] for name in project.repro()]
    # grpo asks nobody: its cells are those of before, restored from the cache
    assert sorted(ran) == sorted(
        ["plan", "report", "train-sft", *["train-matched"] * 3, *["evaluate"] * 4]
    )
    results = json.loads((project.folder / "data/report/results.json").read_text())
    used = {row["arm"]: row["tokens_used"] for row in results}
    prompts = {}
    for arm in arms[:-1]:
        run = run_json(project, arm)
        source = "omniopd" if arm == "constant-scores" else arm
        answered = pd.read_parquet(project.cell(source, 1, "teach") / "answers.parquet")
        prompt_of = answered.rollout_id
        if arm != "sft":
            own = pd.read_parquet(project.cell(arm, 1, "rollout") / "rollouts.parquet")
            prompt_of = prompt_of.map(own.set_index("rollout_id").prompt_id)
        costs = answered.groupby(prompt_of, sort=False).completion_tokens.sum()
        assert len(costs) == 8
        kept = costs[costs.cumsum() <= 320]
        assert (run["used"], run["kept_prompts"]) == (kept.sum(), len(kept))
        assert run["used"] <= run["cap"] == 320
        assert run["cut_prompts"] == 8 - len(kept)
        assert run["rows_in"] == run["kept_responses"] - run["left_out"]
        assert used[arm] == (run["used"] if arm != "constant-scores" else 0)
        prompts[arm] = list(kept.index)
    assert 0 < len(prompts["omniopd"]) < 8
    assert prompts["constant-scores"] == prompts["omniopd"]
    assert "match" not in run_json(project, "grpo")
    rows = json.loads((project.folder / "data/report/costs.json").read_text())
    cut = {row["arm"]: row["cut_prompts"] for row in rows}
    assert cut["omniopd"] == 8 - len(prompts["omniopd"])
    assert cut["grpo"] is cut["base"] is None
    page = (project.folder / "data/report/results.md").read_text()
    assert "caps a round of an arm at 320 teacher output tokens" in page
    assert "Not capped, as they use none of it: grpo." in page
    assert (project.folder / "data/report/cost.png").stat().st_size > 10_000

    name = f"train-matched@{project.cell('omniopd', 1, 'train').name}"
    assert project.loaded(name) <= project.reached(name)
    project.revert()
    assert project.repro() == []
