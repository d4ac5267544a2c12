"""The options of `omniopd audit` as the params.yaml of its scratch folder."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import typer
from pydantic import TypeAdapter

from pipeline.config import params, params_file, teacher_lines
from pipeline.config.params import METHOD
from pipeline.config.teachers import LocalTeacher, OpenAICompatibleTeacher
from pipeline.core.errors import UserError
from pipeline.plan import blocks, expand, experiment, named_teachers
from pipeline.teachers.capabilities import capability

if TYPE_CHECKING:
    from pipeline.commands.dumps.told import Told

ANY_LENGTH = 1_000_000  # tokens of a response that was sampled elsewhere


@dataclass(frozen=True)
class Options:
    """The options of an audit: what is audited, and how far."""

    student: str  # PACKAGE/FILE.gguf, a folder, or a hub name
    teacher: str  # PROVIDER:MODEL, a URL, a name in ./params.yaml, or as the student
    prompts: Path  # JSON lines with `prompt` or `messages`, and `answer` where there is one
    out: Path
    model: str | None = None  # the teacher's model, where it is a URL
    provider: str = "other"
    continuation: str | None = None  # None: the project's for a named teacher, else what fits
    tokenizer: str | None = None
    api_key_env: str | None = None
    price: tuple[float, float] | None = None
    accept_terms: tuple[str, ...] = ()
    max_usd: float | None = None
    count: int = 64
    samples: int = 2
    forks: int = 3
    chunk_tokens: int = 12
    answers: int = 4
    max_attempts: int = 10
    max_new_tokens: int = 96
    temperature: float = 1.0
    metric: str = "edit"
    full: int = 6400  # responses of the run whose cost is told
    device: str = "cpu"
    engine: params.Engine = "hf"  # that samples student and local teacher
    threads: int = 1
    imported: bool = False  # `prompts` holds rollouts of another trainer: none is sampled
    dump: "Told | None" = None  # of which trainer, where its rows are not those of import itself


def fitted(o: Options) -> Options:
    """Limit the options to the prompts that there are. Raises UserError without a file of them.

    Another trainer's dump is written to the scratch folder as rows of our own.
    """
    from pipeline.commands import dumps
    from pipeline.engines.chat import prerendered
    from pipeline.tasks import problem_files
    from pipeline.tasks.prompts import problem
    from pipeline.training import imported_rows

    if o.dump is not None:
        o = replace(o, prompts=dumps.converted(o.prompts, o.student, o.dump, o.out), dump=None)
    known = prerendered.of_folder(Path(o.student))  # of a hub's student the rollout stage knows it
    if o.imported:
        return replace(o, count=min(imported_rows.prompts_of(o.prompts, known), o.count))
    if not o.prompts.exists():
        raise UserError(f"--prompts {o.prompts}: no such file. Wanted rows with `prompt`.")
    held = 0
    for row in problem_files.file(o.prompts):
        held += 1
        asked = problem(row)
        if known is not None:
            prerendered.refuse(row.where, asked.messages, known)
    if held < o.count:
        typer.echo(f"{o.prompts} holds {held} prompts, fewer than {o.count}: all of them", err=True)
    return replace(o, count=min(held, o.count))


def settings(o: Options) -> dict[str, Any]:
    """The params.yaml of the audit. Raises UserError where an option does not fit."""
    models: dict[str, Any] = {"student": named_teachers.imported(o.student)}
    teacher, asked = _teacher(o, models)
    return {
        "experiment": {"student": "student", "rounds": 1, "seeds": [0], "arms": [METHOD]},
        "arms": {METHOD: {}},
        "teachers": {"audited": teacher},
        "runtime": {"threads": o.threads, "device": o.device, "batch_tokens": 16384},
        "prepare": _prepare(o),
        "pretrain": {"per_seed": False, "models": models},
        "rollout": _rollout(o),
        "forks": {
            "scheduler": "peak-entropy",
            "max_forks": o.forks,
            "chunk_tokens": o.chunk_tokens,
        },
        "teach": {
            "teacher": "audited",
            "samples": o.answers,
            "temperature": o.temperature,
            "max_attempts": o.max_attempts,
            "max_failure_rate": 1.0,  # failures are a finding of the audit, not its end
            "ahead": False,  # the teacher's hours are those of its stage
            "epoch": 0,
            **asked,
        },
        # flat or blind: findings of the audit, not its end
        "score": {
            "metric": o.metric,
            "source": "similarity",
            "allow_flat": True,
            "max_unseen": 1.0,
        },
        "prior": {"alpha": 1.0, "source": "scores"},
        "calibrate": {"forks": 10_000},
        "train": _train(o),
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
    found = {"task": "prompts", "file": str(o.prompts.resolve()), "seed": 0, "train": o.count}
    return found | ({"responses": True} if o.imported else {})


def _rollout(o: Options) -> dict[str, Any]:
    """The block rollout; constants for imported ones, of whose sampling nothing is known."""
    return {
        "engine": "hf" if o.imported else o.engine,
        "prompts_per_round": o.count,
        "samples_per_prompt": 1 if o.imported else o.samples,
        "max_new_tokens": ANY_LENGTH if o.imported else o.max_new_tokens,
        "temperature": 1.0 if o.imported else o.temperature,
        "top_p": 1.0,
        "top_k": 0,
    }


def _train(o: Options) -> dict[str, Any]:
    """Settings that the plan asks for; nothing is trained."""
    return {
        "objective": "omniopd",
        "beta": 0.1,
        "lr": 1e-5,
        "batch_size": o.count * o.samples,
        "micro_batch_size": 8,
        "epochs": 1,
        "reduce": "response_sum",
        "importance_ratio": "none",
        "optimizer": "reset",
        "betas": [0.9, 0.98],
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        "lora": "none",
    }


def _teacher(o: Options, models: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry of teachers, and how it is asked; a local one also enters `models`."""
    asked: dict[str, Any] = {"accept_terms": list(o.accept_terms), "max_usd": o.max_usd}
    if teacher_lines.is_hosted(o.teacher):
        url = "://" in o.teacher
        found = _served(o) if url else _provided(o)
        asked["continuation"] = o.continuation or _mode(o, found)
        return found, asked
    named = _of_params(o.teacher)
    if named is None or named["kind"] == "local":
        models["audited"] = named_teachers.imported(_checkpoint(o.teacher) if named else o.teacher)
        return {"kind": "local", "model": "audited", "engine": o.engine}, asked | {
            "continuation": o.continuation or "completions"
        }
    block = experiment.read_yaml(blocks.PARAMS).get("teach") or {}
    asked["continuation"] = o.continuation or block.get("continuation", "prefill")
    asked["accept_terms"] = asked["accept_terms"] or block.get("accept_terms", [])
    asked["max_usd"] = o.max_usd if o.max_usd is not None else block.get("max_usd")
    asked["max_requests"] = block.get("max_requests")
    if named.get("tokenizer"):
        named["tokenizer"] = named_teachers.absolute(named["tokenizer"])
    return named, asked


def _of_params(name: str) -> dict[str, Any] | None:
    """A teacher of the project in the current folder."""
    if not blocks.PARAMS.is_file():
        return None
    found = (experiment.read_yaml(blocks.PARAMS).get("teachers") or {}).get(name)
    return dict(found) if found else None


def _checkpoint(name: str) -> str:
    """Folder of a local teacher that the project in the current folder has trained."""
    file = experiment.load()
    teacher = file.teachers[name]
    assert isinstance(teacher, LocalTeacher)
    folder = Path(expand.checkpoint(file, teacher.model)) / "checkpoint"
    if not folder.is_dir():
        raise UserError(f"--teacher {name}: {folder} does not exist yet. Run `omniopd repro`.")
    return str(folder)


def _mode(o: Options, found: dict[str, Any]) -> str:
    """The closest way of continuing a prefix that the teacher takes."""
    if o.tokenizer:
        return "completions"
    provider = found.get("provider", found["kind"])
    return next(m for m in capability(provider, found["model"]).modes if m != "completions")


def _provided(o: Options) -> dict[str, Any]:
    """A provider's model. Raises UserError for one that is unknown, or an option of URLs."""
    for option, value in (("--model", o.model), ("--tokenizer", o.tokenizer)):
        if value:
            raise UserError(
                f"{option}: found with --teacher {o.teacher}, wanted with a URL. Leave it out."
            )
    found = teacher_lines.entry(o.teacher, "--teacher")
    own = {
        "api_key_env": o.api_key_env,
        "price": o.price and {"input": o.price[0], "output": o.price[1]},
    }
    return found | {name: value for name, value in own.items() if value is not None}


def _served(o: Options) -> dict[str, Any]:
    """A teacher behind a URL. Raises UserError where it serves several models and none is named."""
    url = urlsplit(o.teacher)
    if url.username or url.password or url.query or url.fragment:
        raise UserError(
            "--teacher: found a URL with credentials or a query, wanted scheme, host and path "
            "alone. Put the key into an environment variable and name it with --api-key-env."
        )
    config = {
        "kind": "openai_compatible",
        "provider": o.provider,
        "base_url": o.teacher,
        "model": o.model or "its only one",
        "tokenizer": named_teachers.absolute(o.tokenizer) if o.tokenizer else None,
        "api_key_env": o.api_key_env,
        "price": o.price and {"input": o.price[0], "output": o.price[1]},
    }
    parsed = params_file.parsed("--teacher", TypeAdapter(OpenAICompatibleTeacher), config)
    return config | {"model": o.model or _only_model(parsed)}


def _only_model(config: OpenAICompatibleTeacher) -> str:
    from openai import OpenAI, OpenAIError

    from pipeline.teachers.wire.api_keys import api_key

    url, key = config.base_url, api_key(config)  # a key goes to no server but its own
    try:
        names = [model.id for model in OpenAI(base_url=url, api_key=key).models.list()]
    except OpenAIError as error:
        raise UserError(
            f"--teacher {url}: {type(error).__name__}, wanted the list of its models. Is the "
            "server up, and the URL's path right (it usually ends in /v1)? Or name the model with "
            "--model."
        ) from None
    if len(names) != 1:
        raise UserError(f"--teacher {url}: serves {names[:5]}. Name one with --model.")
    return str(names[0])
