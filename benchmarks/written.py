"""A scratch project of so many responses, its tables written by the row: what each stage reads."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ruamel.yaml import YAML

from pipeline.code_digest import locks, variants
from pipeline.data import schemas, tables
from pipeline.plan import expand
from pipeline.plan.experiment import load
from tests.locked import put

ROOT = Path(__file__).parent.parent
MINIATURE = ROOT / "tests" / "miniature.yaml"
SAMPLES = 4  # responses that answer one problem
LENGTHS, NEW = (200, 600), 256  # tokens of a response that is written here, and most that is drawn
FORKS, CHUNK, ANSWERS = 2, 50, 4  # M, C, N
ALPHABET = "0123456789+=,;#?" + "".join(map(chr, range(0x4E00, 0x4E00 + 240)))
STAGES = (
    "prepare",
    "pretrain",
    "rollout",
    "forks",
    "teach",
    "score",
    "prior",
    "calibrate",
    "train",
    "evaluate",
    "report",
)
CHOOSES = ("source",)  # of a cell, beside its params, what code it loads


def project(folder: Path, responses: int) -> None:
    """params.yaml, the cells, a checkpoint and the tables of every stage."""
    data = folder / "data"
    data.mkdir(parents=True)
    with (folder / "params.yaml").open("w") as file:
        YAML().dump({"runtime": {"threads": 1, "batch_tokens": 16384}}, file)
    cells = _cells(responses)
    put(folder, {"cells": cells})
    locks.write(variants.of_plan({"cells": cells}), folder)
    _checkpoint(data / "pretrain")
    for folder_, split in (("prepare", "train"), ("asked", "test")):
        asked = _prompts(responses // SAMPLES, split)
        tables.write(asked, data / folder_ / "prompts.parquet", schemas.PROMPTS)
    names = (("rollout", "rollouts"), ("forks", "forks"), ("teach", "answers"))
    names += (("score", "scores"), ("prior", "targets"))
    declared = (schemas.ROLLOUTS, schemas.FORKS, schemas.ANSWERS, schemas.SCORES, schemas.TARGETS)
    paths = [data / stage / f"{name}.parquet" for stage, name in names]
    _written(paths, declared, responses, size=min(responses, tables.ROWS_PER_GROUP))
    evals = _evals(responses // SAMPLES)
    tables.write(evals, data / "evaluate/evals.parquet", schemas.EVALS)
    _linked(folder, cells)


def _linked(folder: Path, cells: dict[str, Any]) -> None:
    """The tables below the keys of the cells that the report looks for, with a run.json each."""
    counts = {"seconds": 1.0, "steps_per_round": 4, "clipped_share": 0.2, "student_tokens": 10}
    counts |= dict.fromkeys(("prompt_tokens_used", "prompt_tokens_alone", "tokens_used"), 10)
    counts |= dict.fromkeys(("tokens_alone", "tokens_billed", "tokens_bought", "answers"), 10)
    counts |= {"failed": 0, "usd": 0.0, "rows_out": 10}
    params = cells["report"]["creport"]["params"]
    (folder / params["prompts"]).symlink_to(folder / "data/asked")
    for arm in params["arms"].values():
        for stage, key in [x for r in arm["seed-0"].values() for x in r.items()]:
            if stage == "policy":
                (folder / key).symlink_to(folder / "data/pretrain")
                continue
            own = folder / "data" / stage / key
            own.mkdir(parents=True, exist_ok=True)
            (own / "run.json").write_text(json.dumps(counts))
            for table in (folder / "data" / stage).glob("*.parquet"):
                (own / table.name).hardlink_to(table)
            if stage == "train":
                line = {"round": 1, "step": 0, "train/loss": 0.5}
                (own / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def _cells(responses: int) -> dict[str, Any]:
    """A cell of each stage, with the miniature's params where the size says nothing else."""
    found = expand.expand(load(MINIATURE))["cells"]
    first = {stage: next(iter(found[stage].values())) for stage in STAGES}
    own = {stage: cell["params"] for stage, cell in first.items()}
    problems = responses // SAMPLES
    pool = {"digits": 6, "train": 4 * responses, "dev": 8, "test": 24}
    own["prepare"]["prepare"] |= pool
    own["pretrain"]["model"] |= {"steps": responses // 32, "batch_size": 32}
    own["rollout"] |= {"prompts_per_round": problems, "samples_per_prompt": SAMPLES}
    own["rollout"] |= {"max_new_tokens": NEW}
    own["forks"] |= {"max_forks": FORKS, "chunk_tokens": CHUNK}
    own["teach"] |= {"samples": ANSWERS, "chunk_tokens": 8, "prompts_per_round": problems}
    own["score"] |= {"samples": ANSWERS}
    own["prior"] |= {"samples": ANSWERS}
    own["calibrate"] |= {"metrics": ["exact", "edit"], "lengths": [CHUNK], "max_forks": FORKS}
    own["calibrate"] |= {"chunk_tokens": CHUNK, "samples": ANSWERS}
    own["train"] |= {"batch_size": 64, "micro_batch_size": 16}
    own["evaluate"] |= {"split": "test", "problems": problems, "samples": 2}
    own["evaluate"] |= {"max_new_tokens": NEW}
    report = own["report"]
    report["arms"] = {arm: report["arms"][arm] for arm in ("base", "omniopd")}
    report["arms"]["omniopd"]["seed-0"]["round-1"].pop("calibrate")
    kept = {stage: {k: cell[k] for k in CHOOSES if k in cell} for stage, cell in first.items()}
    return {stage: {f"c{stage}": {**kept[stage], "params": own[stage]}} for stage in STAGES}


def _checkpoint(folder: Path) -> None:
    """Random weights, made in a process of its own: this one stays without torch."""
    code = (
        "import sys, torch; from pathlib import Path;"
        "from pipeline.engines import char_tokenizer as characters, hf;"
        "from pipeline.training.optimizer import save_none;"
        "from pipeline.config.models import LlamaInit;"
        "torch.manual_seed(0); torch.set_num_threads(1); t = characters.tokenizer(sys.argv[2]);"
        "i = LlamaInit(kind='llama', hidden=16, layers=1, heads=2, mlp=32);"
        "m = characters.llama(i, t, 2048); f = Path(sys.argv[1]);"
        "hf.save(m, t, f / 'checkpoint', torch.float32); save_none(f / 'optimizer.safetensors')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(folder), ALPHABET]
    subprocess.run(command, check=True, env=environment, capture_output=True)


def _prompts(count: int, split: str) -> pa.Table:
    texts = [f"{i % 1000}+{i // 1000}?" + ALPHABET[20:90] for i in range(count)]
    ids = [f"train-{i:06d}" for i in range(count)]
    columns = {
        "prompt_id": ids,
        "task": ["arithmetic"] * count,
        "split": [split] * count,
        "messages": [json.dumps([{"role": "user", "content": text}]) for text in texts],
        "prompt": texts,
        "answer": ["843"] * count,
    }
    return pa.table(columns, schema=schemas.PROMPTS)


def _written(paths: list[Path], declared: tuple[pa.Schema, ...], responses: int, size: int) -> None:
    """Rollouts, forks, answers, scores and targets, a row group of responses at a time."""
    with ExitStack() as stack:
        writers = [
            stack.enter_context(tables.writer(path, schema))
            for path, schema in zip(paths, declared, strict=True)
        ]
        for first in range(0, responses, size):
            for writer, table in zip(writers, _tables(first, size), strict=True):
                writer.write_table(table, row_group_size=tables.ROWS_PER_GROUP)


def _tables(first: int, size: int) -> Iterator[pa.Table]:
    draw = np.random.default_rng(first)
    lengths = draw.integers(*LENGTHS, size)
    ends = np.cumsum(lengths)
    ids = draw.integers(18, 2 + len(ALPHABET), ends[-1]).astype(np.int32)
    letters = np.array(list("\0\0" + ALPHABET))
    texts = ["".join(x) for x in np.split(letters[ids], ends[:-1])]
    names = [f"train-{i // SAMPLES:06d}-{i % SAMPLES}" for i in range(first, first + size)]
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    entropies = draw.uniform(0, 2, ends[-1]).astype(np.float32)
    asked = np.arange(size + 1, dtype=np.int32) * 80
    rollouts = {
        "rollout_id": names,
        "prompt_id": [name[:-2] for name in names],
        "sample": pa.array([i % SAMPLES for i in range(size)], pa.int32()),
        "round": pa.array(np.ones(size, np.int32)),
        "prompt_token_ids": _lists(asked, draw.integers(18, 200, asked[-1]).astype(np.int32)),
        "token_ids": _lists(offsets, ids),
        "logprobs": _lists(offsets, draw.uniform(-2, 0, ends[-1]).astype(np.float32)),
        "entropies": _lists(offsets, entropies),
        "text": texts,
        "finish_reason": ["length"] * size,
        "reward": pa.array(draw.integers(0, 2, size).astype(np.float32)),
    }
    yield pa.table(rollouts, schema=schemas.ROLLOUTS)
    places = [(i, fork, 60 * fork + 20) for i in range(size) for fork in range(FORKS)]
    fork_names = [names[i] for i, *_ in places]
    positions = pa.array([position for *_, position in places], pa.int32())
    columns = {
        "rollout_id": fork_names,
        "fork": pa.array([fork for _, fork, _ in places], pa.int32()),
        "position": positions,
        "length": pa.array([CHUNK] * len(places), pa.int32()),
        "entropy": pa.array(draw.uniform(0, 2, len(places)).astype(np.float32)),
        "prefix_text": [texts[i][:at] for i, _, at in places],
        "chunk_text": [texts[i][at : at + CHUNK] for i, _, at in places],
        "ended": [False] * len(places),
    }
    yield pa.table(columns, schema=schemas.FORKS)
    yield from _evidence(fork_names, positions, columns["chunk_text"], draw)


def _lists(offsets: Any, values: np.ndarray) -> pa.Array:
    return pa.ListArray.from_arrays(offsets, pa.array(values))


def _evidence(
    names: list[str], positions: pa.Array, chunks: list[str], draw: np.random.Generator
) -> Iterator[pa.Table]:
    """Answers, scores and targets of the forks: N answers, the chunk with another beginning."""
    count = len(names) * ANSWERS
    of_fork = np.repeat(np.arange(len(names)), ANSWERS)
    sample = pa.array(np.tile(np.arange(ANSWERS, dtype=np.int32), len(names)))
    owner = pa.array(names).take(pa.array(of_fork))
    at = positions.take(pa.array(of_fork))
    cuts = draw.integers(0, CHUNK, count).tolist()
    texts = [
        ALPHABET[-cut - 1 : -1] + chunks[f][cut:] for f, cut in zip(of_fork, cuts, strict=True)
    ]
    answers = {
        "rollout_id": owner,
        "position": at,
        "sample": sample,
        "teacher": ["carries"] * count,
        "text": texts,
        "ended": [False] * count,
        "finish_reason": ["length"] * count,
        "model_returned": ["carries"] * count,
        "prompt_tokens": pa.array([100] * count, pa.int32()),
        "completion_tokens": pa.array([CHUNK] * count, pa.int32()),
        "request_key": [f"{i:064x}" for i in draw.integers(0, 1 << 60, count)],
        "token_ids": _lists(
            np.arange(0, (count + 1) * CHUNK, CHUNK, dtype=np.int32),
            draw.integers(2, 12, count * CHUNK, dtype=np.int32),
        ),
    }
    yield pa.table(answers, schema=schemas.ANSWERS)
    similar = draw.random(count)
    scores = {name: answers[name] for name in ("rollout_id", "position", "sample", "teacher")}
    scores |= {"metric": ["edit"] * count, "similarity": similar}
    yield pa.table(scores, schema=schemas.SCORES)
    k = similar.reshape(-1, ANSWERS).sum(1)
    targets = {
        "rollout_id": names,
        "position": positions,
        "length": pa.array([CHUNK] * len(names), pa.int32()),
        "n": pa.array([ANSWERS] * len(names), pa.int32()),
        "k_sem": k,
        "pi_bar": np.full(len(names), 0.5),
        "pi_hat": (k + 0.5) / (ANSWERS + 1),
        "posterior_sd": np.full(len(names), 0.2),
        "weight": (k + 0.5) / (ANSWERS + 1),
    }
    yield pa.table(targets, schema=schemas.TARGETS)


def _evals(problems: int) -> pa.Table:
    """Greedy, then two samples, of each problem."""
    draw = np.random.default_rng(0)
    places = [("greedy", p, 0) for p in range(problems)]
    places += [("sampled", p, sample) for p in range(problems) for sample in range(2)]
    count = len(places)
    columns = {
        "task": ["arithmetic"] * count,
        "problem_id": [f"test-{p:06d}" for _, p, _ in places],
        "sample": pa.array([sample for *_, sample in places], pa.int32()),
        "decoding": [decoding for decoding, *_ in places],
        "response": ["".join(draw.choice(list(ALPHABET), LENGTHS[1])) for _ in places],
        "extracted": ["1"] * count,
        "correct": [bool(x) for x in draw.integers(0, 2, count)],
        "finish_reason": ["length"] * count,
        "tokens": pa.array([LENGTHS[1]] * count, pa.int32()),
    }
    return pa.table(columns, schema=schemas.EVALS)
