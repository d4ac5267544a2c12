"""README.md of an exported checkpoint: what it is, and what was measured of it."""

import json
from pathlib import PurePath
from typing import Any

from pipeline.analysis.intervals import interval
from pipeline.commands.exports.source import Source
from pipeline.config.models import GgufInit, HubInit, Init, LlamaInit, ModelInit
from pipeline.config.teachers import LocalTeacher
from pipeline.core import verified
from pipeline.method.adaptive import least
from pipeline.method.objectives import declared
from pipeline.stage import run_records

LICENSE = """\
The licence of these weights is not known to the pipeline, so none is given. What holds for the base
model, for the prompts and for the text of a teacher's provider holds for them too: read those terms
before you share or use them."""


def card(source: Source) -> str:
    """Front matter of the hub, then Markdown."""
    from huggingface_hub import ModelCardData

    init = source.experiment.pretrain.models[source.experiment.experiment.student].init
    base = init.name if isinstance(init, HubInit) else None
    found = _rows(source)
    data = ModelCardData(
        library_name="transformers",
        base_model=None if base is None or PurePath(base).is_absolute() else base,
        license="unknown",
        tags=["omniopd"],
        datasets=_hub_sets(source) or None,
        model_name=f"{source.arm}, seed {source.seed}, round {source.round}" if found else None,
        eval_results=[_eval_result(row, source) for row in found] or None,
    )
    parts = [
        *_heading(data.to_yaml(), source),
        "\n".join(f"- **{name}**: {text}" for name, text in _facts(source, init)),
        "## Results\n\n" + _results(found),
        "## Licence\n\n" + LICENSE,
    ]
    return "\n\n".join(parts) + "\n"


def of_table(source: Source, what: str, file: str) -> str:
    """README.md of a round's table as a dataset of the hub."""
    from huggingface_hub import DatasetCardData

    init = source.experiment.pretrain.models[source.experiment.experiment.student].init
    configs = [{"config_name": what, "data_files": file}]
    data = DatasetCardData(license="unknown", tags=["omniopd"], configs=configs)
    parts = [
        *_heading(data.to_yaml(), source, f"{what} of "),
        "\n".join(f"- **{name}**: {text}" for name, text in _facts(source, init)),
        "## Licence\n\n" + LICENSE,
    ]
    return "\n\n".join(parts) + "\n"


def _heading(front: str, source: Source, what: str = "") -> list[str]:
    where = f"arm `{source.arm}`, seed {source.seed}, round {source.round} of {source.rounds}"
    return [
        f"---\n{front}\n---",
        f"# {what}{source.arm}, seed {source.seed}, round {source.round}",
        f"Made by the OmniOPD pipeline: {what}{where}.",
    ]


def _hub_sets(source: Source) -> list[str]:
    """Datasets of the hub that the problems are from."""
    sets = getattr(source.settings.prepare, "sets", None) or {}
    return sorted({one.hub for one in sets.values() if getattr(one, "hub", None)})


def _eval_result(row: dict[str, Any], source: Source) -> Any:
    from huggingface_hub import EvalResult

    decoding = f"avg@{row['k']}" if row["decoding"] == "sampled" else row["decoding"]
    return EvalResult(
        task_type="text-generation",
        dataset_type=row["task"],
        dataset_name=row["task"],
        dataset_split=source.settings.evaluate.split,
        metric_type="accuracy",
        metric_name=f"accuracy, {decoding}, {row['problems']} problems",
        metric_value=row["accuracy"],
        metric_args={"interval_95": [row["low"], row["high"]], "difference_to_base": row["diff"]},
    )


def _facts(source: Source, init: Any) -> list[tuple[str, str]]:
    found = [("base", _base(init))]
    if source.arm == "base":
        return [*found, ("training", "none in this experiment: this is the student of round 0")]
    p = source.train
    numbers = ("beta", "lr", "batch_size", "epochs", "reduce", "correction", "match", "cap")
    told = ", ".join(f"{name} {p[name]}" for name in numbers if name in p)
    found.append(("objective", f"{p['objective']} ({told})"))
    if _taught(source):
        found.append(("teacher", "; ".join(map(_teacher(source), source.settings.teach.teachers))))
    if "prior" in source.cells:
        found.append(("evidence", _evidence(source)))
    return [*found, ("data", _data(source))]


def _base(init: Init) -> str:
    match init:
        case LlamaInit():
            size = f"hidden {init.hidden}, {init.layers} layers"
            return f"random weights, Llama architecture ({size}), pretrained on the task's problems"
        case GgufInit():
            return f"{init.file} of package {init.package}, dequantised"
        case HubInit():
            name = PurePath(init.name)
            known = f" at {init.revision}" if init.revision else ""
            return f"{name.name if name.is_absolute() else name}{known}"
        case ModelInit():
            return f"the experiment's own model {init.name}, trained further"


def _taught(source: Source) -> bool:
    """Whether a teacher's text or logits are in the round's evidence."""
    if any(stage.startswith("teach") for stage in source.cells):
        return True
    return "teacher" in (source.cell("train") if "train" in source.cells else {})


def _teacher(source: Source) -> Any:
    def said(name: str) -> str:
        teacher = source.experiment.teachers[name]
        if isinstance(teacher, LocalTeacher):
            init = source.experiment.pretrain.models[teacher.model].init
            return f"{name}, a local checkpoint ({_base(init)})"
        return f"{name}, {teacher.model} ({teacher.provider})"

    return said


def _evidence(source: Source) -> str:
    s = source.settings
    few, many = least(s.teach.samples), s.teach.most
    asked = f"{many}" if few == many else f"{few} to {many}"
    return (
        f"{s.forks.scheduler} forks, up to {s.forks.max_forks} a response, {s.forks.chunk_tokens} "
        f"tokens each; {asked} continuations a fork in mode {s.teach.continuation}; "
        f"metric {s.score.metric}; scores: {s.score.source}; prior: {s.prior.source}, alpha "
        f"{s.prior.strength(many):g}, weight {s.prior.weight}"
    )


def _data(source: Source) -> str:
    s, prepare = source.settings, source.settings.prepare
    held = getattr(prepare, "file", None) or getattr(prepare, "sets", None)
    names = f" ({PurePath(held).name})" if isinstance(held, str) else ""
    if held and not names:
        names = f" ({', '.join(sorted(held))})"
    sampled = f", {s.rollout.samples_per_prompt} responses each"
    reads = declared(source.train["objective"]).reads
    own = f"{sampled} by the round's own student" if "rollouts" in reads else ""
    count, rounds = s.rollout.prompts_per_round, source.round
    return f"task {prepare.task}{names}: {count} prompts a round, {rounds} rounds so far{own}"


def _rows(source: Source) -> list[dict[str, Any]]:
    """The results in data/report, where it is of this plan and knows the round."""
    return [row for row in _report(source) if _is_of(row, source)]


def _results(found: list[dict[str, Any]]) -> str:
    if not found:
        return "None: the experiment's report does not hold this round."
    lines = [
        "95 % bootstrap intervals over problems, conditional on this one run.\n",
        "| task | decoding | problems | accuracy | difference to base |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        decoding = f"avg@{row['k']}" if row["decoding"] == "sampled" else row["decoding"]
        own = interval(row["accuracy"], row["low"], row["high"])
        diff = interval(row["diff"], row["diff_low"], row["diff_high"], "+")
        lines.append(f"| {row['task']} | {decoding} | {row['problems']} | {own} | {diff} |")
    return "\n".join(lines)


def _is_of(row: dict[str, Any], source: Source) -> bool:
    return (row["arm"], row["seed"], row["round"]) == (source.arm, source.seed, source.round)


def _report(source: Source) -> list[dict[str, Any]]:
    folder = source.root / run_records.DATA / "report"
    if not (folder / "results.json").is_file() or not (folder / "run.json").is_file():
        return []
    verified.once(folder / "run.json")
    verified.once(folder / "results.json")
    made_of = json.loads((folder / "run.json").read_text(encoding="utf-8"))["cell"]
    if made_of not in source.plan["cells"]["report"]:  # of another plan
        return []
    return list(json.loads((folder / "results.json").read_text(encoding="utf-8")))
