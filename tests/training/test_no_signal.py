"""Rounds without a signal: what comes out of train is what went in, and the user reads why."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.analysis import costs, results
from pipeline.config.renamed import in_cells
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.engines import checkpoints, hf
from pipeline.engines.hf import Frozen
from pipeline.method.objectives import Example, declared, grpo, omniopd
from pipeline.plan.experiment import load
from pipeline.report import no_effect
from pipeline.report.page import outcome
from pipeline.stage import cells, multi_step
from pipeline.stage.run_records import rounds
from pipeline.training import no_signal
from pipeline.training.evidence import train_params
from pipeline.training.gradients import gradients
from pipeline.training.optimizer import Optimizer, save_none
from stages import report, train
from tests import handmade, naive
from tests.training.test_training import examples, rollouts, step, walk

LENGTH, CHUNK = 6, 2
PARAMS = {
    "objective": "omniopd", "lr": 1e-2, "batch_size": 2, "micro_batch_size": 2, "epochs": 2,
    "reduce": "response_sum", "optimizer": "carry", "betas": [0.9, 0.98], "warmup_steps": 0,
    "clip": 1.0, "beta": 0.1, "seed": 0, "round": 3, "prompts_per_round": 2,
}  # fmt: skip


class Cell:
    """A train cell in a folder of its own: two prompts with two responses each, a drifted student
    with moments, and the reference that it has left."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.folder, self.dtype = folder, dtype
        student = naive.tiny(1)
        self._save(student, "reference")
        optimizer = Optimizer(student.model, 1e-2, (0.9, 0.98), 0, 1.0)
        walk(student.model, optimizer, range(2))
        self._save(student, "policy")
        optimizer.save(folder / "policy/optimizer.safetensors", dtype != torch.float32)

    def _save(self, policy: hf.Policy, name: str) -> None:
        hf.save(policy.model, policy.tokenizer, self.folder / name / "checkpoint", self.dtype)

    def rollouts(self, rewards: list[float]) -> None:
        rows = [
            {
                "rollout_id": f"r{i}",
                "prompt_id": f"p{i // 2}",
                "sample": i % 2,
                "round": 3,
                "prompt_token_ids": [3, 2],
                "token_ids": [4 + i] * LENGTH,
                "logprobs": [-1.5] * LENGTH,
                "entropies": [1.0] * LENGTH,
                "text": "2" * LENGTH,
                "finish_reason": "stop",
                "reward": reward,
            }
            for i, reward in enumerate(rewards)
        ]
        self._write("rollouts", rows, schemas.ROLLOUTS)

    def targets(self, weights: list[float]) -> None:
        """A fork in each of the first responses."""
        rows = [
            {
                "rollout_id": f"r{i}",
                "position": 1,
                "length": CHUNK,
                "n": 4,
                "k_sem": 0.0,
                "pi_bar": 0.2,
                "pi_hat": 0.3,
                "posterior_sd": 0.1,
                "weight": weight,
            }
            for i, weight in enumerate(weights)
        ]
        self._write("targets", rows, schemas.TARGETS)

    def nothing(self, name: str, schema: pa.Schema) -> None:
        self._write(name, [], schema)

    def _write(self, name: str, rows: list[dict[str, object]], schema: pa.Schema) -> None:
        table = pa.Table.from_pylist(rows, schema=schema)
        tables.write(table, self.folder / f"{name}.parquet", schema)

    def train(self, monkeypatch: pytest.MonkeyPatch, *inputs: str, **changes: object) -> Path:
        """Run the stage in this process; its folder."""
        given = {"correction": "none", "baseline": "none", "anchor": "outside"} | PARAMS | changes
        given = {"jsd_beta": 0.5, "answers": 1} | given
        names = in_cells(train_params.of(declared(given["objective"])))
        held = {("train", "c1"): ("train", {"params": {k: given[k] for k in names if k in given}})}
        monkeypatch.setattr(cells, "_inside", held)
        monkeypatch.setattr(train, "start", lambda runtime: None)
        monkeypatch.setattr(cells, "check_code", lambda stage, key: None)
        monkeypatch.chdir(self.folder)
        paths = {"policy": "policy", "rollouts": "rollouts.parquet"}
        paths |= {name: f"{name}.parquet" for name in inputs if name != "teacher"}
        if "teacher" in inputs:
            paths |= {"teacher": "policy"}
        else:  # what an adapter sits on is its reference
            paths |= {"reference": "policy" if "lora" in changes else "reference"}
        line = [word for name, path in paths.items() for word in (f"--{name}", path)]
        out = self.folder / "out"
        monkeypatch.setattr(sys, "argv", ["train", "--cell", "c1", *line, "--out", str(out)])
        train.main()
        return out


def files(folder: Path) -> dict[str, bytes]:
    """What a cell's checkpoint and moments are, byte for byte."""
    whole = [*folder.glob("checkpoint/*"), folder / "optimizer.safetensors"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in whole}


def no_forks(cell):
    cell.targets([])


def zero_weights(cell):
    cell.targets([0.0] * 4)


def equal_weights(cell):
    cell.targets([0.1] * 3)  # three times .1 is not .3


def nothing_bought(cell):
    cell.nothing("forks", schemas.FORKS)
    cell.nothing("answers", schemas.ANSWERS)


def as_it_is(cell):
    pass


BATCH = {"baseline": "batch", "correction": "ratio"}
KINDS = [
    (no_forks, ("targets",), {}, "no-forks", "no response has a fork with tokens to train on"),
    (no_forks, ("targets",), {"anchor": "all"}, "no-forks", "Lower forks.chunk_tokens"),
    (zero_weights, ("targets",), {}, "zero-weights", "every weight is zero"),
    (zero_weights, ("targets",), {"reduce": "token_mean"}, "zero-weights", "Look at score.metric"),
    (equal_weights, ("targets",), BATCH, "zero-weights", "every weight is zero"),
    (as_it_is, (), {"objective": "grpo"}, "equal-rewards", "have equal rewards"),
    (as_it_is, (), {"objective": "rft"}, "no-examples", "4 answers were wrong or cut"),
    (as_it_is, ("teacher",), {"objective": "opd"}, "zero-gradient", "gradient of the signal is"),
    (as_it_is, ("teacher",), {"objective": "gkd"}, "zero-gradient", "Use a teacher that differs"),
    (as_it_is, ("teacher",), {"objective": "opd-sampled"}, "zero-gradient", "exactly zero"),
    (
        nothing_bought,
        ("forks", "answers"),
        {"objective": "imitate-forks"},
        "no-forks",
        "has a fork",
    ),
]


@pytest.mark.parametrize(("make", "inputs", "changes", "reason", "said"), KINDS)
def test_a_round_without_a_signal_leaves_every_byte_and_says_why(
    make, inputs, changes, reason, said, tmp_path, monkeypatch, caplog
):
    cell = Cell(tmp_path)
    cell.rollouts([0.1] * 4)
    make(cell)
    with caplog.at_level(logging.INFO, "omniopd"):
        out = cell.train(monkeypatch, *inputs, **changes)
    assert files(out) == files(tmp_path / "policy")
    run = json.loads((out / "run.json").read_text())
    assert (run["no_signal"], run["rounds_without_signal"]) == (reason, 1)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {line[no_signal.LINE] for line in lines} == {reason}
    assert run["steps_without_signal"] == run["steps_per_round"] == len(lines)
    assert run["student_tokens"] == 0
    assert (
        f"train c1: the round has no signal ({reason}: {no_signal.REASONS[reason]})" in caplog.text
    )
    assert "Weights, moments and step count stay as they were." in caplog.text
    assert said in caplog.text


def test_a_bfloat16_checkpoint_with_its_float32_weights_stays_too(tmp_path, monkeypatch):
    cell = Cell(tmp_path, torch.bfloat16)
    cell.rollouts([0.0] * 4)
    cell.targets([])
    out = cell.train(monkeypatch, "targets")
    assert files(out) == files(tmp_path / "policy")


def test_a_first_adapter_is_written_untrained(tmp_path, monkeypatch):
    cell = Cell(tmp_path)
    save_none(tmp_path / "policy/optimizer.safetensors")
    before = (tmp_path / "policy/optimizer.safetensors").read_bytes()
    cell.rollouts([0.0] * 4)
    adapter = {"rank": 2, "alpha": 4.0, "targets": ["q_proj"]}
    out = cell.train(monkeypatch, objective="rft", lora=adapter)
    assert (out / "optimizer.safetensors").read_bytes() == before
    assert checkpoints.is_adapter(out / "checkpoint")
    first = hf.load(out / "checkpoint", "cpu").model(torch.tensor([[3, 2, 5]])).logits
    plain = hf.load(tmp_path / "policy/checkpoint", "cpu").model(torch.tensor([[3, 2, 5]])).logits
    assert torch.equal(first, plain)


def test_a_round_in_which_one_response_has_a_signal_trains(tmp_path, monkeypatch):
    cell = Cell(tmp_path)
    cell.rollouts([0.0] * 4)
    cell.targets([0.0, 0.5, 0.0, 0.0])
    out = cell.train(monkeypatch, "targets", batch_size=4, epochs=1)
    run = json.loads((out / "run.json").read_text())
    assert "no_signal" not in run
    assert (run["steps_without_signal"], run["rounds_without_signal"]) == (0, 0)
    assert files(out).keys() == files(tmp_path / "policy").keys()
    for name in ("checkpoint/model.safetensors", "optimizer.safetensors"):
        assert files(out)[name] != files(tmp_path / "policy")[name]


def silenced(found: list[Example]) -> list[Example]:
    return [Example([s._replace(weight_T=s.weight_T * 0) for s in e.sequences]) for e in found]


def test_a_step_without_a_signal_among_others_is_as_if_it_were_not_there():
    def trained(rounds: list[list[Example]]) -> tuple[list[bytes], list[dict[str, object]]]:
        student, frozen = naive.tiny(1), Frozen(naive.tiny(2))
        optimizer, lines = Optimizer(student.model, 1e-2, (0.9, 0.98), 3, 1.0), []
        for batch in rounds:
            sums, found = gradients(student, frozen, batch, step("omniopd"))
            lines.append(no_signal.step(optimizer, sums, found, batch, omniopd.OBJECTIVE))
        state = optimizer.state(keep_weights=True)
        return [state[name].numpy().tobytes() for name in sorted(state)], lines

    one, other = examples("omniopd"), examples("omniopd", 1)
    with_it, lines = trained([silenced(one), one, silenced(other), other])
    without, plain = trained([one, other])
    assert with_it == without
    assert [line.get(no_signal.LINE) for line in lines] == ["zero-weights", None] * 2
    assert [lines[1], lines[3]] == plain
    assert lines[0]["train/anchor_grad_norm"] > 0.01  # an anchor that would have moved it
    assert no_signal.of_round(lines) is None
    assert no_signal.of_round([lines[0], lines[2]]) == "zero-weights"


def test_a_run_that_was_killed_before_its_first_signal_goes_on_from_there():
    """What is kept then has weights and no moments."""

    def trained(policy: hf.Policy, optimizer: Optimizer) -> dict[str, torch.Tensor]:
        sums, _ = gradients(policy, Frozen(naive.tiny(2)), examples("omniopd"), step("omniopd"))
        optimizer.step(sums.grads)
        return optimizer.state(keep_weights=True)

    straight, broken = naive.tiny(1), naive.tiny(3)
    first = Optimizer(straight.model, 1e-2, (0.9, 0.98), 3, 1.0)
    kept = {name: x.clone() for name, x in first.state(keep_weights=True).items()}
    second = Optimizer(broken.model, 1e-2, (0.9, 0.98), 3, 1.0)
    second.take_up(kept, Path("kept"))
    ours, theirs = trained(broken, second), trained(straight, first)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], x) for name, x in theirs.items())
    assert int(ours["step"]) == 1


def test_a_round_has_the_last_of_the_reasons_of_its_steps():
    lines = [{no_signal.LINE: why} for why in ("zero-weights", "no-forks")]
    assert no_signal.of_round(lines) == "zero-weights"
    assert no_signal.of_round([*lines, {"train/loss": 0.5}]) is None
    assert no_signal.of_round([]) is None


def test_equal_rewards_and_weights_that_no_float_holds_give_exactly_zero():
    names = ["a", "a", "a", "b", "b"]
    found = grpo.advantages(names, np.array([0.1, 0.1, 0.1, 0.1, 0.4]))
    assert found[:3].tolist() == [0.0] * 3
    assert found[3:] == pytest.approx([-(0.5**0.5), 0.5**0.5], abs=1e-3)
    table = rollouts([(name, name, 1.0, "stop") for name in "abc"])
    hats = pa.chunked_array([[0.1, 0.1, 0.1]])
    for baseline in ("batch", "prompt"):
        assert omniopd.centred(table, list("abc"), hats, baseline).tolist() == [0.0] * 3


def test_run_json_of_several_steps_counts_the_rounds_and_names_each_reason_once():
    runs = [
        {"rows_out": 4, "steps_per_round": 2, "rounds_without_signal": 1, "no_signal": "no-forks"},
        {"rows_out": 4, "steps_per_round": 2, "rounds_without_signal": 0},
        {"rows_out": 4, "steps_per_round": 2, "rounds_without_signal": 1, "no_signal": "no-forks"},
    ]
    found = multi_step.merged(runs)
    assert (found["rounds_without_signal"], found["no_signal"]) == (2, "no-forks")


def test_steps_that_were_not_taken_cost_no_optimizer_step(tmp_path, monkeypatch):
    made = handmade.experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = costs.cost(made["arms"], "sft", 0, 2).optimizer_steps
    path = tmp_path / "data/train" / made["arms"]["sft"]["seed-0"]["round-2"]["train"] / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps_without_signal": 3}))
    assert costs.cost(made["arms"], "sft", 0, 2).optimizer_steps == before - 3


# ---- what the report says


def silence(folder: Path, key: str, round_: int, reason: str) -> None:
    line = {"round": round_, "step": 0, "train/loss": 0.0, no_signal.LINE: reason}
    (folder / "data/train" / key / "metrics.jsonl").write_text(json.dumps(line) + "\n")


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Rows of a finished experiment in which some cells of train had no signal."""

    def rows(**reasons: str) -> tuple[list[dict[str, object]], dict[str, object]]:
        made = handmade.experiment(tmp_path)
        monkeypatch.chdir(tmp_path)
        for arm, _, round_, own in rounds(made["arms"]):
            if arm in reasons or f"{arm}_{round_}" in reasons:
                reason = reasons.get(arm) or reasons[f"{arm}_{round_}"]
                silence(tmp_path, own["train"], round_, reason)
        lines = report.losses(made["arms"])
        return no_effect.rows(made["arms"], made["settings"], lines), made["settings"]

    return rows


def test_an_arm_of_which_no_round_had_a_signal_gets_no_verdict(told):
    found, settings = told(omniopd="no-forks")
    text = no_effect.section(found, settings)
    assert (
        "- **No verdict on omniopd (seed 0)**: none of its 2 rounds had a signal (no-forks: no "
        "response has a fork with tokens to train on). Nothing was trained: its weights are the "
        "base student's, byte for byte, and its rows say nothing of the method. Lower "
        "forks.chunk_tokens, or raise rollout.max_new_tokens."
    ) in text
    assert no_effect.untrained(found) == {("omniopd", 0)}
    row = {"arm": "omniopd", "versus": "base", "seed": 0, "task": "t"}
    row |= {"diff": 0.0, "low": 0.0, "high": 0.0}
    row["note"] = results.never(("omniopd", "base"), [0], no_effect.untrained(found))
    cards, _ = outcome.contrasts([row])
    assert (cards.cards[0].badge, cards.cards[0].tone) == (
        "no round of omniopd had a signal",
        "flat",
    )
    assert "No evidence either way" in cards.cards[0].text


def test_a_control_without_a_signal_is_no_failure(told):
    found, settings = told(**{"shuffled-scores": "zero-weights"})
    assert no_effect.failures(found) == []
    assert (
        "shuffled-scores (seed 0), a control: none of its 2 rounds had a signal (zero-weights: "
        "every weight is zero). Its weights are the base student's, byte for byte."
    ) in no_effect.remarks(found, settings)


def test_rounds_without_a_signal_are_counted_and_their_checkpoints_called_equal(told):
    found, settings = told(grpo_2="equal-rewards")
    assert no_effect.failures(found) == []
    assert no_effect.untrained(found) == set()
    assert (
        "grpo (seed 0): 1 of 2 rounds had no signal (equal-rewards: the responses to each prompt "
        "have equal rewards). The checkpoints before and after such a round are equal, byte for "
        "byte."
    ) in no_effect.remarks(found, settings)


def test_arms_that_end_at_the_same_bytes_are_named(tmp_path, monkeypatch):
    made = handmade.experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    weights = {name: draw.bytes(300_000) for name in ("one", "other")}
    late = bytearray(weights["one"])
    late[-70_000] ^= 1  # so that one byte differs, far from the beginning
    written = {"omniopd": "one", "shuffled-scores": "one", "sft": "other", "pair": "other"}
    for arm, own in written.items():  # grpo's and zero-score's have been dropped
        key = made["arms"][arm]["seed-0"]["round-2"]["train"]
        checkpoint = tmp_path / "data/train" / key / "checkpoint"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(weights[own])
    (checkpoint / "model.safetensors").write_bytes(bytes(late))
    lines = report.losses(made["arms"])
    found = no_effect.rows(made["arms"], made["settings"], lines)
    equal = {row["arm"]: row["equal_to"] for row in found}
    assert {arm: names for arm, names in equal.items() if names} == {
        "omniopd": ["shuffled-scores"], "shuffled-scores": ["omniopd"],
    }  # fmt: skip
    said = (
        "omniopd and shuffled-scores (seed 0): equal checkpoints after the last round, byte for "
        "byte. What differs between these arms had no effect."
    )
    assert [x for x in no_effect.remarks(found, made["settings"]) if "equal" in x] == [said]
    assert said in no_effect.section(found, made["settings"])


def test_responses_without_a_fork_and_forks_with_k_sem_0_are_said(told):
    found, settings = told()
    remarks = no_effect.remarks(found, settings)
    said = "omniopd: 2 of 24 responses have no fork; the teacher said nothing of them."
    assert said in remarks
    assert not any("k_sem" in remark for remark in remarks)
    flat = [row | {"zero_k_sem": row["forks"]} for row in found]
    (line,) = [
        remark
        for remark in no_effect.remarks(flat, settings)
        if remark.startswith("omniopd: k_sem")
    ]
    assert line.startswith("omniopd: k_sem is 0 in 44 of 44 forks; their weight is the student's")


# ---- what is known before anything is bought


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"score": {"source": "zero"}, "prior": {"alpha": 0.0}}, r"prior\.alpha: found 0, wanted"),
        (
            {"score": {"source": "zero"}, "prior": {"alpha": 0.0}, "train": BATCH},
            r"prior\.alpha: found 0, wanted",
        ),
        (
            {"prior": {"source": "constant", "controls": "omniopd"}, "train": BATCH},
            r"train\.baseline: found 'batch', wanted none with prior\.source constant.*are 0, and",
        ),
        (
            {"train": {"objective": "opd"}, "teach": {"teacher": "itself"}},
            r"teach\.teacher: found 'itself', wanted another model than the student",
        ),
    ],
)
def test_an_arm_that_could_never_train_is_refused_before_anything_is_bought(block, said, tmp_path):
    from ruamel.yaml import YAML

    yaml = YAML()
    values = yaml.load(handmade.MINIATURE.read_text())
    values["arms"]["mute"] = block
    values["experiment"]["arms"].append("mute")
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        yaml.dump(values, file)
    with pytest.raises(
        UserError, match=f"{said}.*(No round would train anything|nothing would be trained)"
    ):
        load(path)
