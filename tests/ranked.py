"""What two ranks find, for tests/training/test_ranks.py: `python -m tests.ranked FOLDER`, once for
each.

Every case is a step of some objective; all of them run in one start of the two processes.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from pipeline.config.params import Runtime
from pipeline.engines.hf import Frozen, Policy
from pipeline.method.objectives import Example
from pipeline.training import launcher, process_group
from pipeline.training.gradients import gradients, recompute
from pipeline.training.optimizer import Optimizer
from pipeline.training.optimizer_steps import Step
from tests import naive
from tests.training.test_lora import adapted
from tests.training.test_training import PAIRED, REFERENCED, TERMS, examples, step, weighed


class Case(NamedTuple):
    objective: str
    lora: bool = False
    token_mean: bool = False
    responses: int = 5
    correct: bool = False
    size: int = 9  # of a micro-batch
    batch_tokens: int | None = None
    recomputed: bool = False
    bfloat16: bool = False
    untied: bool = False


CASES = [
    *(Case(objective) for objective in TERMS),
    *(Case(objective, lora=True, token_mean=True) for objective in TERMS),
    Case("gkd0.3", token_mean=True),
    *(Case("omniopd", responses=count, size=1) for count in (1, 3)),  # a rank with none, with one
    *(Case("grpo", lora, size=2) for lora in (False, True)),
    *(Case("omniopd", lora, True, responses=3, correct=True, size=1) for lora in (False, True)),
    *(Case("imitate-forks", lora, batch_tokens=24) for lora in (False, True)),
    *(Case("omniopd", lora, recomputed=True) for lora in (False, True)),
    *(Case("opd-forks", lora, bfloat16=True) for lora in (False, True)),
    *(Case("opd-forks", lora, untied=True) for lora in (False, True)),
]
FLOOR = 1e-4  # of a tensor that is nothing but rounding
STEPS = 3  # of a run with an optimizer, taken up after the first


def untie(policy: Policy) -> Policy:
    """The same with a head of its own, which has other weights."""
    model: Any = policy.model
    torch.manual_seed(9)
    model.config.tie_word_embeddings = False
    weight = model.get_input_embeddings().weight.detach().clone()
    trained = model.get_input_embeddings().weight.requires_grad
    model.lm_head.weight = torch.nn.Parameter(weight + torch.randn_like(weight) / 10, trained)
    return policy


def policies(case: Case) -> tuple[Policy, Frozen]:
    student = adapted() if case.lora else naive.tiny(1)
    compared = case.objective in REFERENCED
    reference = (student if case.lora else naive.tiny(2)) if compared else None
    white_box = case.objective.startswith(("opd", "gkd"))
    frozen = Frozen(reference, naive.tiny(3) if white_box else None)
    for policy in (student, *frozen) if case.untied else ():
        if policy is not None and policy.model.config.tie_word_embeddings:
            untie(policy)
    if case.recomputed:
        recompute(student.model)
    for policy in frozen:
        if policy is not None and policy is not student:
            policy.model.requires_grad_(False)
    return student, frozen


def evidence(case: Case, seed: int = 0) -> list[Example]:
    return examples(case.objective, seed)[: case.responses]


def how(case: Case, group: process_group.Group) -> Step:
    found = step(case.objective, case.size, case.token_mean, case.correct)
    more = {"bfloat16": case.bfloat16, "batch_tokens": case.batch_tokens, "group": group}
    return replace(found, **more)


def found(
    case: Case, group: process_group.Group
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Metrics of the case's step, and this rank's shard of the gradients of both terms."""
    student, frozen = group.spread(*policies(case))
    given, taken = evidence(case), how(case, group)
    if case.objective in PAIRED:
        given = weighed(case.objective, student, frozen, given, taken)
    sums, metrics = gradients(student, frozen, given, taken)
    for weight in (w for p in (student, *frozen) if p for w in p.model.parameters()):
        if hasattr(weight, "to_local"):  # nowhere does a rank still hold the whole of a weight
            held = weight.to_local().untyped_storage().nbytes()
            assert (
                held
                <= -(-len(weight) // 2) * (weight.numel() // len(weight)) * weight.element_size()
            )
    names = [n for n, p in student.model.named_parameters() if p.requires_grad]
    grads = {}
    for term, several in (("signal", sums.signal_grads), ("whole", sums.grads)):
        for name, grad in zip(names, several, strict=True):
            shard: Any = grad
            own = shard.to_local() if hasattr(shard, "to_local") else shard
            grads[f"{term}.{name}"] = own.clone()  # of one term, both are one tensor
    return metrics, grads


def trained(
    case: Case, group: process_group.Group, state: dict[str, torch.Tensor] | None = None
) -> Any:
    """Metrics and state of some optimizer steps, from what `state` has on the first process."""
    student, frozen = group.spread(*policies(case))
    optimizer = Optimizer(student.model, 1e-2, (0.9, 0.98), 2, 0.5, group=group)
    kept = group.broadcast_object(None if state is None else (state, None))
    if kept is not None:
        optimizer.take_up(dict(kept[0]), Path("kept"))
    metrics = []
    for seed in range(optimizer.steps, STEPS):
        sums, _ = gradients(student, frozen, evidence(case, seed), how(case, group))
        metrics.append(optimizer.step(sums.grads))
        if state is None and seed == 0:
            state = {n: t.clone() for n, t in optimizer.state(keep_weights=True).items()}
    full = group.gathered(student, lambda: policies(case)[0])
    ends = {} if full is None else dict(full.model.state_dict())
    return metrics, optimizer.state(keep_weights=True), state, ends


def close(ours: torch.Tensor, plain: torch.Tensor, near: float) -> None:
    """Assert that two tensors are equal to `near` of the largest entry."""
    scale = float(plain.abs().max())
    assert float((ours - plain).abs().max()) <= near * max(scale, FLOOR)


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with launcher.group(Runtime()) as group:
        told: dict[str, Any] = {}
        tensors: dict[str, torch.Tensor] = {}
        for number, case in enumerate(CASES):
            metrics, grads = found(case, group)
            told[str(number)] = metrics
            tensors |= {f"{number}.{name}": grad for name, grad in grads.items()}
        for lora in (False, True):
            case = Case("omniopd", lora)
            metrics, state, kept, ends = trained(case, group)
            again = trained(case, group, kept if group.first else None)
            told[f"trained.{lora}"] = [metrics, again[0]]
            for name, several in (("state", state), ("again", again[1]), ("ends", ends)):
                tensors |= {f"{name}.{lora}.{n}": t.clone() for n, t in several.items()}
        place = process_group.place()
        assert place is not None
        save_file(tensors, folder / f"rank-{place.rank}.safetensors")
        if group.first:
            (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
