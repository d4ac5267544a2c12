"""`omniopd audit`: is this teacher worth it, before any training?

Some prompts go through rollout, forks, teach, score, prior and calibrate in a folder of their own.
It is the same plan and the same stages as those of an experiment, one after the other; neither git
nor DVC is needed. Cells are named by what they are, so a second audit in the folder repeats only
what has changed, and the judgment store keeps every answer that was bought.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from ruamel.yaml import YAML

from pipeline import cells, experiment, params, plan, plan_round, tables
from pipeline.errors import UserError

ARM = "omniopd"
PATHS = {  # of an input of a cell: its argument on the stage's command line
    "prompts": "data/prepare/{}/prompts.parquet",
    "rollouts": "data/rollout/{}/rollouts.parquet",
    "forks": "data/forks/{}/forks.parquet",
    "answers": "data/teach/{}/answers.parquet",
    "scores": "data/score/{}/scores.parquet",
    "policy": "{}",
    "teacher": "{}",
    "tokenizer": "{}/checkpoint/tokenizer.json",
}


@dataclass(frozen=True)
class Options:
    """What is audited, and how far."""

    student: str  # PACKAGE/FILE.gguf, a folder, or a hub name
    teacher: str  # a URL, a name in ./params.yaml, or as the student
    prompts: Path  # JSON lines with `prompt` or `messages`, and `answer` where there is one
    out: Path
    model: str | None  # the teacher's model, where it is a URL
    provider: str
    continuation: str
    tokenizer: str | None
    api_key_env: str | None
    price: tuple[float, float] | None
    count: int
    samples: int
    forks: int
    chunk_tokens: int
    answers: int
    max_new_tokens: int
    temperature: float
    metric: str
    full: int  # responses of the run whose cost is told


def audit(options: Options) -> Path:
    """Run the audit; returns its page. Raises UserError."""
    content = settings(options)
    options.out.mkdir(parents=True, exist_ok=True)
    cells.write_text(options.out / "params.yaml", _yaml(content))
    file = experiment.load(options.out / "params.yaml")
    found = plan.audited(file, ARM)
    cells.write_text(options.out / cells.PLAN, _yaml(found))
    _run(found, options.out)
    with contextlib.chdir(options.out):  # the report's readers know artifacts as data/...
        text = _page(options, file, found)
        cells.write_text(Path("index.html"), text)
    return options.out / "index.html"


def _page(o: Options, file: experiment.Experiment, found: dict[str, Any]) -> str:
    from pipeline.calibration import summary
    from pipeline.page import audit as page
    from pipeline.runs import folder, run_json

    arms = found["cells"]["arms"]
    settings = {ARM: plan_round.method(file.arm(ARM))}
    ((_, own),) = arms[ARM]["seed-0"].items()
    rollouts = folder("rollout", own["rollout"]) / "rollouts.parquet"
    reasons = tables.read(rollouts, tables.ROLLOUTS, ["finish_reason"])["finish_reason"].to_pylist()
    teacher = file.teachers["audited"]
    price = None if isinstance(teacher, params.LocalTeacher) else teacher.price
    return page.html(
        page.Audited(
            student=o.student,
            teacher=o.teacher,
            continuation=o.continuation,
            metric=o.metric,
            chunk_tokens=o.chunk_tokens,
            prompts=o.count,
            responses=len(reasons),
            forks=tables.rows(folder("forks", own["forks"]) / "forks.parquet", tables.FORKS),
            cut=reasons.count("length") / max(len(reasons), 1),
            calibration=summary.rows(summary.gather(arms, settings)),
            teach=run_json("teach", own["teach"]),
            price=None if price is None else {"input": price.input, "output": price.output},
            full=o.full,
            settings=settings[ARM],
            browser=page.browser(arms, settings),
        )
    )


def settings(o: Options) -> dict[str, Any]:
    """The params.yaml of the audit. Raises UserError where an option does not fit."""
    models: dict[str, Any] = {"student": _model(o.student)}
    teacher = _teacher(o, models)
    return {
        "experiment": {"student": "student", "rounds": 1, "seeds": [0], "arms": [ARM]},
        "arms": {ARM: {}},
        "teachers": {"audited": teacher},
        "runtime": {"threads": os.cpu_count() or 1, "device": "cpu", "batch_tokens": 16384},
        "prepare": _prepare(o),
        "pretrain": {"per_seed": False, "models": models},
        "rollout": {
            "engine": "hf",
            "prompts_per_round": o.count,
            "samples_per_prompt": o.samples,
            "max_new_tokens": o.max_new_tokens,
            "temperature": o.temperature,
            "top_p": 1.0,
            "top_k": 0,
        },
        "forks": {
            "scheduler": "peak-entropy",
            "max_forks": o.forks,
            "chunk_tokens": o.chunk_tokens,
        },
        "teach": {
            "teacher": "audited",
            "samples": o.answers,
            "temperature": o.temperature,
            "continuation": o.continuation,
            "max_attempts": 3,
            "max_failure_rate": 1.0,  # failures are a finding of the audit, not its end
            "epoch": 0,
        },
        "score": {"metric": o.metric, "source": "similarity", "allow_flat": True},
        "prior": {"alpha": 1.0, "source": "scores"},
        "calibrate": {"forks": 10_000},
        "train": {
            "objective": "omniopd",
            "beta": 0.1,
            "lr": 1e-5,
            "batch_size": o.count * o.samples,
            "micro_batch_size": 8,
            "epochs": 1,
            "reduce": "response_sum",
            "correction": "none",
            "optimizer": "reset",
            "betas": [0.9, 0.98],
            "warmup_steps": 0,
            "clip": 1.0,
        },
        "evaluate": {
            "split": "dev",
            "problems": 1,
            "samples": 1,
            "temperature": 1.0,
            "max_new_tokens": o.max_new_tokens,
            "rounds": "last",
        },
    }


def _prepare(o: Options) -> dict[str, Any]:
    if not o.prompts.is_file():
        raise UserError(f"--prompts {o.prompts}: no such file. Wanted JSON lines with `prompt`.")
    return {
        "task": "prompts",
        "file": str(o.prompts.resolve()),
        "seed": 0,
        "train": o.count,
    }


def _model(spec: str) -> dict[str, Any]:
    """An entry of pretrain.models that imports `spec` as it is."""
    studied = {"steps": 0, "batch_size": 1, "lr": 1e-5}
    package, _, file = spec.partition("/")
    if file.endswith(".gguf") and importlib.util.find_spec(package):
        return {"init": {"kind": "gguf", "package": package, "file": file}} | studied
    return {"init": {"kind": "hub", "name": _absolute(spec)}} | studied


def _absolute(name: str) -> str:
    """A folder, as seen from the scratch folder; a hub name stays."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _teacher(o: Options, models: dict[str, Any]) -> dict[str, Any]:
    """The entry of teachers; a local one also enters `models`."""
    if o.teacher.startswith(("http://", "https://")):
        return {
            "kind": "openai_compatible",
            "provider": o.provider,
            "base_url": o.teacher,
            "model": o.model or _served(o.teacher, o.api_key_env),
            "tokenizer": _absolute(o.tokenizer) if o.tokenizer else None,
            "api_key_env": o.api_key_env,
            "price": o.price and {"input": o.price[0], "output": o.price[1]},
        }
    named = _of_params(o.teacher)
    if named is not None and named["kind"] != "local":
        return named
    models["audited"] = _model(_checkpoint(o.teacher) if named else o.teacher)
    return {"kind": "local", "model": "audited"}


def _of_params(name: str) -> dict[str, Any] | None:
    """A teacher of the project in the current folder."""
    if not experiment.PARAMS.is_file():
        return None
    found = (experiment.read_yaml(experiment.PARAMS).get("teachers") or {}).get(name)
    return dict(found) if found else None


def _checkpoint(name: str) -> str:
    """Folder of a local teacher that the project in the current folder has trained."""
    file = experiment.load()
    teacher = file.teachers[name]
    assert isinstance(teacher, params.LocalTeacher)
    folder = Path(plan.checkpoint(file, teacher.model)) / "checkpoint"
    if not folder.is_dir():
        raise UserError(f"--teacher {name}: {folder} does not exist yet. Run `omniopd repro`.")
    return str(folder)


def _served(url: str, api_key_env: str | None) -> str:
    """The one model that a server serves. Raises UserError where there are several."""
    from openai import OpenAI, OpenAIError

    key = os.environ.get(api_key_env or "OPENAI_API_KEY", "none")
    try:
        names = [model.id for model in OpenAI(base_url=url, api_key=key).models.list()]
    except OpenAIError as error:
        raise UserError(
            f"--teacher {url}: {type(error).__name__}. Is the server up, and the URL's path right "
            "(it usually ends in /v1)? Or name the model with --model."
        ) from None
    if len(names) != 1:
        raise UserError(f"--teacher {url}: serves {names[:5]}. Name one with --model.")
    return names[0]


def _run(found: dict[str, Any], folder: Path) -> None:
    """Each cell that has not been run, in dependency order. Raises UserError where one fails."""
    names = list(plan.upstream(found))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for number, name in enumerate(names, 1):
        group, _, key = name.partition("@")
        stage, cell = group.partition("-")[0], found["cells"][group][key]
        if (folder / "data" / stage / key / "run.json").is_file():
            continue
        typer.echo(f"{number} of {len(names)}: {stage}", err=True)
        done = subprocess.run([*command(stage, key, cell)], cwd=folder, env=environment)
        if done.returncode:
            raise UserError(
                f"audit: stage {stage} failed; its own message is above. Mend that and run the "
                "same command again: finished stages are not repeated."
            )


def command(stage: str, key: str, cell: dict[str, Any]) -> Iterator[str]:
    """The command line of a cell, as dvc.yaml has it."""
    yield from (sys.executable, "-m", f"stages.{stage}", "--cell", key)
    for name, value in cell.items():
        argument = "tokenizer" if name == "student" else name
        if name != "params" and argument in PATHS:
            yield from (f"--{argument}", PATHS[argument].format(value))
    yield from ("--out", f"data/{stage}/{key}")


def _yaml(content: dict[str, Any]) -> str:
    from io import StringIO

    stream, yaml = StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(content, stream)
    return stream.getvalue()
