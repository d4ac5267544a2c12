"""A finished experiment written by hand: tiny tables of every kind that the report reads.

Two rounds of omniopd, shuffled-scores (which shares round 1), pair (two teachers), zero-score, grpo
and sft. One response is `<script>alert(1)</script>`.
"""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ruamel.yaml import YAML
from tokenizers import Tokenizer, decoders, models

from pipeline.data import schemas, tables
from pipeline.plan import expand
from pipeline.plan.experiment import load
from pipeline.stage.run_records import AFTER
from tests.locked import lock
from tests.project import MINIATURE

ALPHABET = sorted(set("0123456789+=,;#?ab <script>alert(1)</script>\nü"))
SCRIPT = "<script>alert(1)</script>\nü 1"
N, C = 4, 3
ROUNDS, RESPONSES = (1, 2), 12
PROBLEMS = 20
COUNTS = {
    "rollout": {"student_tokens": 150},
    "teach": {
        "answers": 88,
        "failed": 0,
        "prompt_tokens_used": 440,
        "prompt_tokens_alone": 110,
        "tokens_used": 100,
        "tokens_alone": 120,
        "tokens_billed": 230,
        "tokens_bought": 120,
        "usd": 0.0,
    },
}


def experiment(folder: Path, evaluated: bool = True) -> dict[str, Any]:
    """Write the data folder and plan.yaml under `folder`; what the report's params are."""
    _tokenizer(folder / "data/pretrain/cbase/checkpoint/tokenizer.json")
    _problems(folder)
    arms: dict[str, Any] = {"base": {"seed-0": {"round-0": {"policy": "data/pretrain/cbase"}}}}
    _evaluation(folder, arms["base"]["seed-0"]["round-0"], "base", 0)
    for arm in ("omniopd", "shuffled-scores", "pair", "zero-score", "grpo", "sft"):
        rounds = {f"round-{r}": _round(folder, arm, r) for r in ROUNDS}
        _evaluation(folder, rounds["round-2"], arm, 2)
        arms[arm] = {"seed-0": rounds}
    if not evaluated:
        for cells in (own for arm in arms.values() for own in arm["seed-0"].values()):
            cells.pop("evaluate", None)
        for arm in arms.keys() - {"base"}:
            key = f"c{arm}rolloutafter"
            _rollouts(folder, key, arm, ROUNDS[-1] + 1)
            arms[arm]["seed-0"][f"round-{ROUNDS[-1]}"][AFTER] = key
    found = {
        "arms": arms,
        "settings": {arm: _settings(arm) for arm in arms if arm != "base"},
        "branches": {},
        "sampled_k": 2,
        "split": "test",
        "per_seed": True,
        "notes": ["Made by hand, </script> & all."],
        "prompts": "data/prepare/cprepare",
        "student": {"name": "beginner", "from": "llama, hidden 8"},
        "teachers": {"carries": "local, model careful", "one": "local", "two": "local"},
    }
    with (folder / "plan.yaml").open("w") as file:
        YAML().dump({"cells": {"report": {"creport": {"params": found}}}}, file)
    lock(folder)
    return found


def _settings(arm: str) -> dict[str, Any]:
    """Those of the miniature's omniopd, and what the arm changes."""
    (report,) = expand.expand(load(MINIATURE))["cells"]["report"].values()
    found: dict[str, Any] = copy.deepcopy(report["params"]["settings"]["omniopd"])
    if arm == "shuffled-scores":
        found["score"]["source"] = "shuffled"
    if arm == "pair":
        found["teach"]["teacher"] = ["one", "two"]
        found["prior"]["combine"] = "mean"
    if arm in ("grpo", "sft"):
        found["train"]["objective"] = arm
    return found


def _round(folder: Path, arm: str, round_: int) -> dict[str, str]:
    owner = "shared" if round_ == 1 else arm
    if arm == "sft":
        return _cells(folder, arm, round_, "train")
    found = {"rollout": f"c{owner}{round_}rollout"}
    ids = _rollouts(folder, found["rollout"], owner, round_)
    if arm == "grpo":
        return found | _cells(folder, arm, round_, "train")
    found["forks"] = f"c{owner}{round_}forks"
    forks = _forks(folder, found["forks"], owner, ids)
    for name in ("one", "two") if arm == "pair" else ("",):
        dash = f"-{name}" * bool(name)
        if arm != "zero-score":
            asked = "shared" if round_ == 1 and not name else arm
            found[f"teach{dash}"] = f"c{asked}{round_}teach{name}"
            _answers(folder, found[f"teach{dash}"], forks, name or "carries")
        found[f"score{dash}"] = f"c{arm}{round_}score{name}"
        _scores(folder, found[f"score{dash}"], forks, arm, name)
    found["prior"] = f"c{arm}{round_}prior"
    _targets(folder, found["prior"], forks, found)
    return found | _cells(folder, arm, round_, "train")


def _cells(folder: Path, arm: str, round_: int, stage: str) -> dict[str, str]:
    key = f"c{arm}{round_}{stage}"
    _run_json(folder, stage, key, steps_per_round=4, clipped_share=0.25, student_tokens=130)
    metrics = folder / "data" / stage / key / "metrics.jsonl"
    metrics.write_text(json.dumps({"round": round_, "step": 0, "train/loss": 0.5}) + "\n")
    return {stage: key}


def _run_json(folder: Path, stage: str, key: str, **counts: Any) -> None:
    path = folder / "data" / stage / key / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seconds": 1.5, **counts}))


def _write(folder: Path, stage: str, key: str, name: str, rows: list[Any], schema: Any) -> None:
    table = pa.Table.from_pylist(rows, schema=schema)
    tables.write(table, folder / "data" / stage / key / f"{name}.parquet", schema)
    _run_json(folder, stage, key, **COUNTS.get(stage, {}), rows_out=len(rows))


def _tokenizer(path: Path) -> None:
    path.parent.mkdir(parents=True)
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    tokenizer.save(str(path))


def _ids(text: str) -> list[int]:
    return [2 + ALPHABET.index(character) for character in text]


def _draw(*names: Any) -> np.random.Generator:
    return np.random.default_rng(list("/".join(map(str, names)).encode()))


def _rollouts(folder: Path, key: str, owner: str, round_: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(RESPONSES):
        draw = _draw(owner, round_, i)
        text = SCRIPT if i == 5 else "".join(draw.choice(list("0123+=,ab"), 9 + i % 4))
        ids = [*_ids(text), 1]
        rows.append(
            {
                "rollout_id": f"train-{i // 2:06d}-{i % 2}",
                "prompt_id": f"train-{i // 2:06d}",
                "sample": i % 2,
                "round": round_,
                "prompt_token_ids": _ids(f"{i // 2}+1?"),
                "token_ids": ids,
                "logprobs": [-0.5] * len(ids),
                "entropies": draw.uniform(0, 2, len(ids)).tolist(),
                "text": text,
                "finish_reason": "stop",
                "reward": float(draw.random() < 0.4),
            }
        )
    _write(folder, "rollout", key, "rollouts", rows, schemas.ROLLOUTS)
    return rows


def _forks(folder: Path, key: str, owner: str, rollouts: list[dict[str, Any]]) -> list[Any]:
    rows = [
        {
            "rollout_id": row["rollout_id"],
            "fork": fork,
            "position": position,
            "length": C,
            "entropy": row["entropies"][position],
            "prefix_text": row["text"][:position],
            "chunk_text": row["text"][position : position + C],
            "ended": False,
        }
        for i, row in enumerate(rollouts)
        for fork, position in enumerate((1, 5) if i else ())
    ]
    _write(folder, "forks", key, "forks", rows, schemas.FORKS)
    return rows


def _answers(folder: Path, key: str, forks: list[Any], teacher: str) -> None:
    rows = [
        {
            "rollout_id": fork["rollout_id"],
            "position": fork["position"],
            "sample": sample,
            "teacher": teacher,
            "text": fork["chunk_text"] if sample == 2 else f"{teacher[0]}<b>{sample}",
            "ended": sample == 3,
            "finish_reason": "stop" if sample == 3 else "length",
            "model_returned": teacher,
            "prompt_tokens": 5,
            "completion_tokens": C,
            "request_key": f"{key}{sample}",
            "token_ids": [2] * C,
        }
        for fork in forks
        for sample in range(N)
    ]
    _write(folder, "teach", key, "answers", rows, schemas.ANSWERS)


def _scores(folder: Path, key: str, forks: list[Any], arm: str, teacher: str) -> None:
    rows = [
        {
            "rollout_id": fork["rollout_id"],
            "position": fork["position"],
            "sample": sample,
            "teacher": teacher or "carries",
            "metric": "edit",
            "similarity": 0.0
            if arm == "zero-score"
            else _draw(key, fork["rollout_id"], fork["position"], sample).random(),
        }
        for fork in forks
        for sample in range(N)
    ]
    _write(folder, "score", key, "scores", rows, schemas.SCORES)


def _targets(folder: Path, key: str, forks: list[Any], cells: dict[str, str]) -> None:
    rows = [
        {
            "rollout_id": fork["rollout_id"],
            "position": fork["position"],
            "length": C,
            "n": N,
            "k_sem": 1.25,
            "pi_bar": 0.5,
            "pi_hat": 0.35,
            "posterior_sd": 0.195,
            "weight": 0.35,
        }
        for fork in forks
    ]
    _write(folder, "prior", key, "targets", rows, schemas.TARGETS)


def _problems(folder: Path) -> None:
    rows = [
        {
            "prompt_id": f"test-{problem:06d}",
            "task": "arithmetic",
            "split": "test",
            "messages": "[]",
            "prompt": f"{problem}+1?",
            "answer": str(problem + 1),
        }
        for problem in range(PROBLEMS)
    ]
    _write(folder, "prepare", "cprepare", "prompts", rows, schemas.PROMPTS)


def _evaluated(arm: str, problem: int, sample: int, decoding: str, round_: int) -> dict[str, Any]:
    """What was written for a problem. The first is cut off, holds a script and no final answer."""
    draw = _draw(arm, problem, sample, decoding)
    correct = bool(draw.random() < 0.3 + 0.2 * round_) and problem > 0
    final = str(problem + 1 if correct else problem + 2)
    text = f"{problem}+1=" + "," * int(draw.integers(0, 30)) + f"#{final}"
    return {
        "response": text if problem else SCRIPT,
        "extracted": final if problem else None,
        "correct": correct,
        "finish_reason": "stop" if problem else "length",
        "tokens": len(text),
    }


def _evaluation(folder: Path, cells: dict[str, str], arm: str, round_: int) -> None:
    rows = [
        {
            "task": "arithmetic",
            "problem_id": f"test-{problem:06d}",
            "sample": sample,
            "decoding": decoding,
            **_evaluated(arm, problem, sample, decoding, round_),
        }
        for decoding, samples in (("sampled", 2), ("greedy", 1))
        for problem in range(PROBLEMS)
        for sample in range(samples)
    ]
    cells["evaluate"] = f"c{arm}{round_}evaluate"
    _write(folder, "evaluate", cells["evaluate"], "evals", rows, schemas.EVALS)
