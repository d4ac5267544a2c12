"""What a train cell that runs now has written so far: its loss, and what it learns from.

A stage keeps the metrics of its steps beside its weights every runtime.keep_seconds, and writes
metrics.jsonl when it is through. Weights, entropies and lengths are of the tables that it reads.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.stage import dataflow, multi_step, resume

LOSSES = 40  # of the last steps, that are told
SHOWN = {"train/loss": "loss", "train/drift": "drift"}
LOG = "metrics.jsonl"


class Training:
    """Reads each file once, as long as it is the same."""

    def __init__(self, tables: bool) -> None:
        """`tables`: read those too that the cell learns from, which takes a while for large ones"""
        self._tables = tables
        self._known: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}

    def of(self, group: str, key: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """By name, of the cell `content`: `step`, `loss`, `drift` and `losses` as of the last step
        that was kept; means of `weight`, `entropy`, `length`; share `truncated`."""
        inside = dataflow.stage(group) == "steps"
        found = self._once(_newest(_kept(key, inside)), _last)
        if self._tables:
            rollouts = _newest(_read(key, content, inside, "rollouts"))
            targets = _newest(_read(key, content, inside, "targets"))
            found |= self._once(rollouts, _responses) | self._once(targets, _weights)
        return found

    def _once(self, path: Path | None, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """What `read` makes of a file; nothing where there is none, or none that is whole."""
        with suppress(OSError, ValueError, KeyError, TypeError, UserError):
            if path is not None:
                status = path.stat()
                token = status.st_mtime_ns, status.st_size
                known = self._known.get(path)
                if known is None or known[0] != token:
                    known = self._known[path] = token, read(path)
                return dict(known[1])
        return {}


def _newest(paths: Iterator[Path]) -> Path | None:
    found = dict[Path, int]()
    for path in paths:
        with suppress(OSError):  # it is being made again just now
            found[path] = path.stat().st_mtime_ns
    return max(found, key=found.__getitem__, default=None)


def _kept(key: str, inside: bool) -> Iterator[Path]:
    """Yield files with the metrics of a cell's steps."""
    yield from (resume.FOLDER / f"train-{key}").glob("**/train.safetensors")
    if inside:
        yield from multi_step.inside(key).glob(f"*/train/{LOG}")


def _read(key: str, content: Mapping[str, Any], inside: bool, name: str) -> Iterator[Path]:
    """Yield the tables of a kind that a cell learns from; of several steps each has its own."""
    one = dataflow.INPUTS[name].path
    if name in content:
        yield Path(one.format(content[name]))
    if inside:
        table = Path(one)
        stage = table.parts[1]
        yield from multi_step.inside(key).glob(f"*/{stage}/{table.name}")


def _last(path: Path) -> dict[str, Any]:
    """The last steps' metrics of a file. Raises ValueError where it is not whole."""
    steps = _lines(path) if path.name == LOG else _header(path)
    if not steps:
        return {}
    last = steps[-1]
    losses = [step["train/loss"] for step in steps[-LOSSES:] if "train/loss" in step]
    shown = {name: last[metric] for metric, name in SHOWN.items() if metric in last}
    return {"step": last["step"] + 1, **shown, "losses": losses}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _header(path: Path) -> list[dict[str, Any]]:
    """The metrics in the metadata of a safetensors file, whose weights are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: {error}") from error
    return list(json.loads(metadata["values"]))


def _responses(path: Path) -> dict[str, float]:
    """Means over a table of rollouts: nats a token, tokens a response, share that was cut off."""
    import pyarrow.compute as pc

    from pipeline.data import schemas, tables

    entropy, tokens, rows, cut = 0.0, 0, 0, 0
    for part in tables.stream(path, schemas.ROLLOUTS, ["entropies", "finish_reason"]):
        flat = pc.list_flatten(part["entropies"])
        entropy += pc.sum(flat).as_py() or 0.0
        tokens, rows = tokens + len(flat), rows + part.num_rows
        cut += pc.sum(pc.equal(part["finish_reason"], "length")).as_py() or 0
    some = max(rows, 1)
    return {
        "entropy": entropy / max(tokens, 1),
        "length": tokens / some,
        "truncated": cut / some,
    }


def _weights(path: Path) -> dict[str, float]:
    """The mean weight of a table of targets."""
    import pyarrow.compute as pc

    from pipeline.data import schemas, tables

    total, rows = 0.0, 0
    for part in tables.stream(path, schemas.TARGETS, ["weight"]):
        total, rows = total + (pc.sum(part["weight"]).as_py() or 0.0), rows + part.num_rows
    return {"weight": total / rows} if rows else {}
