"""Memory, cache and hours of an experiment, as rows, and as tables with every assumption."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

from pipeline.commands.estimate import footprint, products
from pipeline.commands.estimate.compute import Cell, Experimental
from pipeline.config import params

STEP_SECONDS = 0.025  # of decoding with transformers on a GPU, at least: a guess
GB = 1e9
Row = dict[str, Any]


class Card(NamedTuple):
    """A device's sustained speed, as the user states it."""

    tflops: float
    gb_per_s: float


class Found(NamedTuple):
    memory: list[Row]
    cache: list[Row]
    hours: list[Row]
    assumptions: list[str]


def card(runtime: params.Runtime, tflops: float | None, gb_per_s: float | None) -> Card | None:
    """The card by the command line, else by params; None unless both figures are stated."""
    found = (tflops or runtime.tflops, gb_per_s or runtime.gb_per_s)
    return None if found[0] is None or found[1] is None else Card(found[0], found[1])


def found(experiment: Experimental, stated: Card | None) -> Found:
    cells = list(experiment.cells())
    rates = measured(cells)
    hours = _hours(cells, rates, stated, experiment.experiment.runtime)
    return Found(_memory(cells), _cache(cells), hours, _assumptions(experiment, rates, stated))


def _memory(cells: Sequence[Cell]) -> list[Row]:
    """The worst cell of each use, by its parts."""
    worst: dict[str, dict[str, float]] = {}
    for cell in cells:
        for label, parts in cell.memory.items():
            if sum(parts.values()) > sum(worst.get(label, {}).values()):
                worst[label] = {name: size / GB for name, size in parts.items() if size}
    return [{"stage": k, "gb": sum(v.values()), "parts": v} for k, v in worst.items()]


def _cache(cells: Sequence[Cell]) -> list[Row]:
    total: dict[str, float] = {}
    for cell in cells:
        for name, size in cell.cache.items():
            total[name] = total.get(name, 0.0) + size / GB
    return [{"what": name, "gb": size} for name, size in total.items()]


def measured(cells: Sequence[Cell]) -> dict[str, float]:
    """Operations a second of finished cells by label, and of all of them under an empty one."""
    done: dict[str, list[float]] = {}
    for cell in cells:
        run = cell.run
        if run and cell.cost.operations:
            for label in (cell.label, ""):
                sums = done.setdefault(label, [0.0, 0.0])
                sums[0] += cell.cost.operations
                waited = run.get("ahead_seconds", 0.0)  # a rollout for its teacher's answers
                sums[1] += run["seconds"] - waited + run.get("start_seconds", 0.0)
    return {label: operations / seconds for label, (operations, seconds) in done.items()}


def seconds(
    cell: Cell, rates: dict[str, float], stated: Card | None, runtime: params.Runtime
) -> float | None:
    """Seconds of a cell, from measured rates, else from stated ones; None without either."""
    if not cell.cost.operations:
        return 0.0
    if rates:
        return cell.cost.operations / rates.get(cell.label, rates[""])
    if stated is None:
        return None
    step = 0.0 if runtime.device == "cpu" else STEP_SECONDS
    operations, moved, steps = cell.cost
    return operations / (stated.tflops * 1e12) + max(moved / (stated.gb_per_s * GB), steps * step)


def _hours(
    cells: Sequence[Cell], rates: dict[str, float], stated: Card | None, runtime: params.Runtime
) -> list[Row]:
    rows: dict[str, Row] = {}
    for cell in cells:
        if not cell.cost.operations:
            continue
        row = rows.setdefault(
            cell.label,
            {"stage": cell.label, "cells": 0, "done": 0, "operations": 0.0, "hours": 0.0},
        )
        row["cells"] += 1
        row["done"] += bool(cell.run)
        row["operations"] += cell.cost.operations
        took = seconds(cell, rates, stated, runtime)
        row["hours"] = None if took is None or row["hours"] is None else row["hours"] + took / 3600
    return list(rows.values())


def _assumptions(
    experiment: Experimental, rates: dict[str, float], stated: Card | None
) -> list[str]:
    file = experiment.experiment
    runtime = file.runtime
    lengths = f"as long as allowed, up to {file.rollout.max_new_tokens} tokens"
    if experiment.measured:
        lengths = f"{experiment.measured:.0f} tokens, the mean of finished rollouts"
    said = [f"Prompts have {experiment.prompt:.0f} tokens; responses are {lengths}."]
    for folder, size in experiment.sizes.items():
        name = f"{experiment.names[folder]}: {size.weights / 1e9:.3g} billion weights"
        said.append(f"{name} of {size.width} bytes, from {size.source}.")
    said.append(_speed(rates, stated, runtime))
    if slow := products.line(file.pretrain.models, runtime):
        said.append(slow)
    said.append(_held(runtime))
    if any("(vllm)" in label for cell in experiment.cells() for label in cell.memory):
        said.append(
            f"vLLM takes the share of a GPU that runtime.engine_memory says, whatever it needs; "
            f"shown are the weights and the KV cache of {footprint.AT_ONCE} sequences."
        )
    said.append(
        f"Cache: experiment.keep_checkpoints is {file.experiment.keep_checkpoints}; tables "
        "uncompressed. Where data/ cannot share blocks with the cache it is as large again, and "
        "the hub's own cache holds what was downloaded."
    )
    said.append(
        "Not counted: stages without a model (forks, score, prior, calibrate, report), start-up of "
        "processes and engines, forks of embedding-variance, arm chunk-logprob, and what failed "
        "draws cost."
    )
    return said


def _held(runtime: params.Runtime) -> str:
    counted = "the context of the device and what its allocator wastes"
    if runtime.device == "cpu":
        counted = "what the allocator wastes"
    checkpointing = "" if runtime.gradient_checkpointing else "not "
    return (
        f"Memory leaves out norms, biases, {counted}. A forward pass holds up to "
        f"{runtime.batch_tokens:,} tokens (runtime.batch_tokens); layers are {checkpointing}"
        "recomputed for the backward pass (runtime.gradient_checkpointing)."
    )


def _speed(rates: dict[str, float], stated: Card | None, runtime: params.Runtime) -> str:
    if rates:
        names = [label for label in rates if label]
        return (
            f"Hours by what finished cells reached, start-up included: {rates[''] / 1e9:.3g} "
            f"billion operations a second over {', '.join(names)}; a stage that has none takes "
            "that mean."
        )
    if stated is None:
        return "Hours: no cell is done; state --tflops and --gb-per-s of the device to have them."
    step = "" if runtime.device == "cpu" else (
        f", and a step of decoding with transformers takes {STEP_SECONDS * 1000:.0f} ms at least "
        "(a guess)"
    )  # fmt: skip
    return (
        f"Hours by what is stated and nobody measured: {stated.tflops:g} TFLOPS and "
        f"{stated.gb_per_s:g} GB/s sustained{step}."
    )


def text(of: Found) -> str:
    """Three tables and the assumptions."""
    memory = [[x["stage"], x["gb"], _largest(x["parts"])] for x in of.memory]
    cache = [[x["what"], x["gb"]] for x in of.cache]
    cache.append(["all", sum(x["gb"] for x in of.cache)])
    hours = [[x["stage"], x["cells"], x["done"], x["operations"], x["hours"]] for x in of.hours]
    known = [x["hours"] for x in of.hours if x["hours"] is not None]
    total = [sum(x[column] for x in of.hours) for column in ("cells", "done", "operations")]
    hours.append(["all", *total, sum(known) if len(known) == len(of.hours) else None])
    shown = [
        tabulate(memory, headers=["stage", "GB", "of it"], floatfmt=".2f"),
        tabulate(cache, headers=["DVC cache", "GB"], floatfmt=".3f"),
        tabulate(
            hours,
            headers=["stage", "cells", "done", "operations", "hours"],
            floatfmt=("", "", "", ".2e", ".2f"),
            missingval="?",
        ),
        "\n".join(f"- {line}" for line in of.assumptions),
    ]
    return "Memory, of one GPU or process\n\n" + "\n\n".join(shown)


def _largest(parts: dict[str, float]) -> str:
    ordered = sorted(parts.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{name} {size:.2f}" for name, size in ordered)
