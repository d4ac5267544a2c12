"""`omniopd audit` on the command line: its options, by what they are about."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands import exchange
from pipeline.core.errors import UserError

# who is audited, and on what
Student = Annotated[str, typer.Option(help="a folder, a hub name, or PACKAGE/FILE.gguf")]
Teacher = Annotated[
    str, typer.Option(help="PROVIDER:MODEL, a URL, a teacher in params.yaml, or like --student")
]
Prompts = Annotated[Path | None, typer.Option(help="JSON lines with `prompt` or `messages`")]
Rollouts = Annotated[
    Path | None, typer.Option(help="in place of --prompts: responses that you have sampled")
]
Out = Annotated[Path, typer.Option(help="working folder; work found there is not repeated")]
# how the teacher is reached and paid
Model = Annotated[str | None, typer.Option(help="the teacher's model, if it is a URL")]
Provider = Annotated[str, typer.Option(help="which API answers at the URL: vllm, openai, ...")]
Continuation = Annotated[
    str | None,
    typer.Option(help="completions, prefill or instruct; default: the named teacher's"),
]
Tokenizer = Annotated[
    str | None, typer.Option(help="for completions at a URL: student, a folder or a hub name")
]
ApiKeyEnv = Annotated[str | None, typer.Option(help="environment variable that holds the API key")]
Price = Annotated[
    tuple[float, float] | None, typer.Option(help="dollars per million tokens, input and output")
]
AcceptTerms = Annotated[
    list[str] | None, typer.Option(help="provider whose terms you have read and accept")
]
MaxUsd = Annotated[float | None, typer.Option(min=0, help="stop before the cost exceeds this")]
# how far, and with which numbers
Count = Annotated[
    int | None, typer.Option(min=2, help="number of prompts; default: 64, or all of --rollouts")
]
Samples = Annotated[int, typer.Option(min=1, help="responses per prompt, G")]
Forks = Annotated[int, typer.Option(min=1, help="forks per response, M")]
ChunkTokens = Annotated[int, typer.Option(min=1, help="tokens per chunk, C")]
Answers = Annotated[int, typer.Option(min=2, help="continuations per fork, N")]
MaxAttempts = Annotated[int, typer.Option(min=1, help="attempts for each continuation")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="maximum tokens of a response")]
Temperature = Annotated[float, typer.Option(help="sampling temperature of student and teacher")]
Metric = Annotated[str, typer.Option(help="metric for the verdict and for the examples")]
Full = Annotated[int, typer.Option(min=1, help="responses of the full run to estimate")]
# on what it is computed
Device = Annotated[str, typer.Option(help="device of student and local teacher")]
Engine = Annotated[
    Literal["hf", "vllm"], typer.Option(help="engine that samples student and local teacher")
]
Threads = Annotated[int | None, typer.Option(min=1, help="default: one per core")]


def audit(
    student: Student,
    teacher: Teacher,
    prompts: Prompts = None,
    rollouts: Rollouts = None,
    out: Out = Path("audit"),
    model: Model = None,
    provider: Provider = "other",
    continuation: Continuation = None,
    tokenizer: Tokenizer = None,
    api_key_env: ApiKeyEnv = None,
    price: Price = None,
    accept_terms: AcceptTerms = None,
    max_usd: MaxUsd = None,
    count: Count = None,
    samples: Samples = 2,
    forks: Forks = 3,
    chunk_tokens: ChunkTokens = 12,
    answers: Answers = 4,
    max_attempts: MaxAttempts = 10,
    max_new_tokens: MaxNewTokens = 96,
    temperature: Temperature = 1.0,
    metric: Metric = "edit",
    full: Full = 6400,
    device: Device = "cpu",
    engine: Engine = "hf",
    threads: Threads = None,
    format_: exchange.Format = None,
    finish_reason: exchange.Reason = None,
    response_limit: exchange.Limit = None,
    reward: exchange.Reward = None,
) -> None:
    """Find out before any training whether a teacher is worth it; needs no git, DVC or params."""
    from pipeline.commands.audit import audit as auditing
    from pipeline.commands.audit import audit_params

    file = exchange.one_of(prompts, rollouts)
    dump = exchange.dump(format_, finish_reason, response_limit, reward)
    if dump is not None and rollouts is None:
        raise UserError("--format: found with --prompts, wanted with --rollouts. Leave it out.")
    count = count or (64 if rollouts is None else sys.maxsize)
    options = audit_params.Options(
        student, teacher, file, out, model, provider, continuation, tokenizer, api_key_env,
        price, tuple(accept_terms or ()), max_usd, count, samples, forks, chunk_tokens, answers,
        max_attempts, max_new_tokens, temperature, metric, full, device,
        engine, threads or os.cpu_count() or 1, rollouts is not None, dump,
    )  # fmt: skip
    typer.echo(auditing.audit(options))
