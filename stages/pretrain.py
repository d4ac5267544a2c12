"""pretrain: the models an experiment starts from, trained on worked solutions or just imported.

reads   prompts  dev and test problems, which no worked solution may give away
        start    another model's checkpoint, where training goes on from one
writes  checkpoint, optimizer.safetensors (no moments yet: round 1 starts from none)
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pipeline import tasks
from pipeline.config import params, params_file
from pipeline.config.models import GgufInit, HubInit, LlamaInit, ModelInit, PretrainModel
from pipeline.config.problems import Prepare
from pipeline.core import seeds
from pipeline.core.errors import UserError, too_long
from pipeline.data import schemas, tables
from pipeline.engines import checkpoints
from pipeline.engines.torch_setup import start
from pipeline.stage import cells, resume

if TYPE_CHECKING:
    import torch

    from pipeline.engines.hf import Policy
    from pipeline.training.optimizer import Optimizer


MOST_PASSED = 100_000  # the problems of a task have no end, but those to learn from may


class PretrainParams(params.Params):
    model: PretrainModel
    prepare: Prepare
    seed: int


def worked(p: PretrainParams, held_out: set[str]) -> Iterator[tuple[tasks.Messages, str]]:
    """Worked solutions, none of a held-out problem; endless, as a task's problems should be.

    Raises UserError where they end, or where MOST_PASSED problems in a row are none to learn from.
    """
    task = tasks.load(p.prepare)
    draw, count, passed = seeds.generator("pretrain", p.seed), 0, 0
    for problem in task.problems(seeds.number("pretrain", p.seed)):
        wanted = p.model.datasets is None or problem.task in p.model.datasets
        if wanted and problem.prompt not in held_out:
            yield problem.messages, task.solution(problem, p.model.habits, draw)
            count, passed = count + 1, 0
        elif (passed := passed + 1) == MOST_PASSED:
            break
    of = "" if p.model.datasets is None else f" of datasets {', '.join(p.model.datasets)}"
    raise UserError(
        f"pretrain: found {count} worked solutions{of} in task {p.prepare.task!r}, wanted "
        f"{p.model.steps * p.model.batch_size} (steps x batch_size). Lower the model's steps (with "
        "0 its weights stay as they are), or correct its datasets."
    )


def pretrain(
    policy: "Policy", p: PretrainParams, held_out: set[str], state: resume.State
) -> dict[str, float]:
    """Cross-entropy on the solutions' tokens, AdamW, cosine decay to zero. In place.

    From the last step in `state`.
    """
    import torch

    from pipeline.training.optimizer import Optimizer

    optimizer = Optimizer(policy.model, p.model.lr, betas=(0.9, 0.999), warmup=0, clip=1.0)
    solutions = worked(p, held_out)
    tokens, loss = _resumed(optimizer, p, solutions, state)
    first, last = optimizer.steps, p.model.steps
    bar = tqdm(range(first, last), "pretrain", last, initial=first, unit="step", disable=None)
    for step in bar:
        optimizer.lr = p.model.lr * _schedule(step, p.model.steps)
        ids, labels = _batch(policy, [next(solutions) for _ in range(p.model.batch_size)])
        with torch.autocast(
            policy.model.device.type, torch.bfloat16, enabled=p.model.dtype == "bfloat16"
        ):
            found = policy.model(
                input_ids=ids["ids"], attention_mask=ids["mask"], labels=labels
            ).loss
        found.backward()
        optimizer.step([x.grad for x in optimizer.named.values() if x.grad is not None])
        tokens, loss = tokens + int((labels != -100).sum()), float(found.detach())
        if state.due():
            state.keep("pretrain", optimizer.state(keep_weights=True), [tokens, loss])
    return {"tokens": tokens} | ({"last_loss": loss} if p.model.steps else {})


def _resumed(
    optimizer: "Optimizer", p: PretrainParams, solutions: Iterator[Any], state: resume.State
) -> tuple[int, float]:
    """Tokens and loss of the steps that a killed run kept, which are taken up."""
    kept = state.kept("pretrain")
    if kept is None:
        return 0, float("nan")
    optimizer.take_up(kept[0], state.folder)
    state.say(f"{optimizer.steps} of {p.model.steps} steps")
    for _ in range(optimizer.steps * p.model.batch_size):
        next(solutions)
    tokens, loss = kept[1]
    return tokens, loss


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first 5 percent, then cosine to zero."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batch(
    policy: "Policy", batch: list[tuple[tasks.Messages, str]]
) -> tuple[dict[str, "torch.Tensor"], "torch.Tensor"]:
    from pipeline.data.text import encode_after
    from pipeline.engines.chat import templates
    from pipeline.engines.kv_cache import padded

    contexts = [policy.prompt_ids(messages) for messages, _ in batch]
    backend, lead = policy.tokenizer.backend_tokenizer, templates.lead(policy.tokenizer)
    solutions = [
        encode_after(backend, context, text if text[:1].isspace() else lead + text)
        for context, (_, text) in zip(contexts, batch, strict=True)
    ]
    rows = [[*c, *s, policy.ends[0]] for c, s in zip(contexts, solutions, strict=True)]
    longest = max(map(len, rows))
    if policy.context and longest > policy.context:
        remedy = "Prepare shorter problems, or use a model that reads more."
        raise too_long("pretrain: a solution", longest, policy.context, remedy)
    ids, mask = padded(rows, policy.model.device)
    labels = ids.masked_fill(mask == 0, -100)
    for b, context in enumerate(contexts):
        labels[b, : len(context)] = -100
    return {"ids": ids, "mask": mask}, labels


def initial(p: PretrainParams, start_folder: Path | None) -> tuple[Any, Any]:
    """Model and tokenizer that training starts from: in float32, or as it is only handed on."""
    import torch

    match p.model.init:
        case LlamaInit() as init:
            from pipeline.engines import char_tokenizer

            torch.manual_seed(seeds.number("init", p.seed))
            tokenizer = char_tokenizer.tokenizer(tasks.load(p.prepare).alphabet())
            return char_tokenizer.llama(init, tokenizer), tokenizer
        case GgufInit() as init:
            from pipeline.engines import pretrained

            return pretrained.from_gguf(init)
        case HubInit() as init:
            from pipeline.engines import pretrained

            # 32 billion weights in float32 are 131 GB: those that nothing is added to need not be
            coarse = p.model.dtype if p.model.steps == 0 else "float32"
            return pretrained.from_hub(init, getattr(torch, coarse))
        case ModelInit():
            from pipeline.engines.hf import load

            assert start_folder is not None  # group pretrain-more always names one
            policy = load(start_folder / "checkpoint", dtype=torch.float32)
            return policy.model, policy.tokenizer


def _held_out(path: Path) -> set[str]:
    parts = tables.stream(path, schemas.PROMPTS, ["prompt", "split"])
    return {row["prompt"] for x in parts for row in x.to_pylist() if row["split"] != "train"}


@cells.entry
def main() -> None:
    args = cells.arguments("pretrain", "prompts", "start?")
    p = cells.params("pretrain", args.cell, PretrainParams)
    runtime = params_file.runtime()
    with resume.state("pretrain", args, runtime) as state, cells.running("pretrain", args) as run:
        held_out = _held_out(args.prompts)
        if args.start is not None:
            checkpoints.check(args.start / "checkpoint")
        start(runtime)
        import torch

        from pipeline.engines.hf import policy_of, save
        from pipeline.training.optimizer import save_none

        policy = policy_of(*initial(p, args.start), runtime.device)
        policy.model.train()
        run.counts.update(pretrain(policy, p, held_out, state))
        dtype = getattr(torch, p.model.dtype)
        save(policy.model, policy.tokenizer, args.out / "checkpoint", dtype)
        save_none(args.out / "optimizer.safetensors")
        run.earlier_seconds = state.earlier
        run.rows_in = run.rows_out = p.model.steps * p.model.batch_size


if __name__ == "__main__":
    main()
