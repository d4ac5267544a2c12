"""Memory and time of the loss at a vocabulary of 152k: ours, with full logits, TRL's in chunks.

The same loss on the same hidden states: reverse KL(student || teacher) on every response token,
forward and backward to the student's hidden states and its head, float32. A model without layers
gives the hidden states, so that nothing else is measured. Each figure comes from a process of its
own; what is compared is the peak above what stood before the loss was asked for. Before anything is
timed the three gradients are compared on a small vocabulary.

loss_memory_omniopd  of the method's loss: half the tokens weighted, the others anchored to the
                     other model; peer: a5430f8
loss_memory_norms    the same, of a step that measures the norm of each term

    python -m benchmarks.loss ours 4096      one measurement, as JSON
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import before
from benchmarks.measure import Row, alone, peak, row, threads

VOCABULARY, HIDDEN = 151_936, 896  # of Qwen2.5-0.5B; Qwen3 has the same vocabulary
LENGTHS, MANDATORY = (2048, 4096, 8192), 4096
NAIVE_BYTES = 8 * 4 * VOCABULARY  # what a token takes with full logits, to know what fits
WAYS = ("ours", "naive", "trl")


def rows(scratch: Path) -> list[Row]:
    agree()
    naive = MANDATORY if _room(MANDATORY) else MANDATORY // 2
    runs = {
        (way, length): alone("benchmarks.loss", way, str(length))
        for length in LENGTHS
        for way in WAYS
        if way != "naive" or length == naive
    }
    found = []
    shortest, longest = min(LENGTHS), max(LENGTHS)
    for measure, unit, key in (("memory", "MiB", "mib"), ("time", "s", "seconds")):
        for (way, length), theirs in runs.items():
            if way == "ours":
                continue
            end = "" if way == "naive" or length == MANDATORY else f"_{length}"
            words = f"{PEERS[way]}, {length} tokens, vocabulary {VOCABULARY}"
            told = (unit, "lower", words, [runs["ours", length][key]], [theirs[key]])
            found.append(row(f"loss_{measure}_{way}{end}", *told))
        name, words = f"loss_{measure}_{longest // shortest}x", f"1x: {shortest} tokens"
        ends = [[runs["ours", length][key]] for length in (longest, shortest)]
        found.append(row(name, unit, "lower", words, *ends))
    return [*found, *_omniopd(scratch)]


def _omniopd(scratch: Path) -> list[Row]:
    code = [before.code(scratch / "before", "pipeline"), before.HERE]
    told = ("benchmarks.loss", "omniopd-before", str(MANDATORY))
    theirs = alone(*told, code=code)["mib"]
    found = []
    for name, way in (("omniopd", "omniopd"), ("norms", "omniopd-norms")):
        mib = alone("benchmarks.loss", way, str(MANDATORY))["mib"]
        words = f"{before.COMMIT}, {MANDATORY} tokens, vocabulary {VOCABULARY}"
        found.append(row(f"loss_memory_{name}", "MiB", "lower", words, [mib], [theirs]))
    return found


def _room(length: int) -> bool:
    import psutil

    return NAIVE_BYTES * length < psutil.virtual_memory().available


def agree() -> None:
    """The same loss and gradients in all three. Raises AssertionError."""
    import numpy as np
    import torch

    student, teacher = models(512, 64)
    ids = np.random.default_rng(0).integers(0, 512, 100).tolist()
    first, *others = [
        {"ours": ours, "naive": naive, "trl": trl}[w](student, teacher, ids) for w in WAYS
    ]
    for other in others:
        assert abs(first["loss"] - other["loss"]) < 1e-5
        for name in first.keys() - {"loss"}:
            assert torch.allclose(first[name], other[name], rtol=1e-4, atol=1e-7), name


PEERS = {"naive": "full logits", "trl": "TRL's chunked divergence"}


def models(vocabulary: int, hidden: int) -> tuple[Any, Any]:
    """Student and teacher without layers; the student's head and last norm are trained."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights

    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=8,
            num_hidden_layers=0,
            num_attention_heads=8,
            tie_word_embeddings=False,
        )
        with no_init_weights():  # it draws each matrix twice, for seconds
            model = LlamaForCausalLM(config).eval().requires_grad_(False)
        model.model.norm.weight.fill_(1.0)
        for module in (model.model.embed_tokens, model.lm_head):
            module.weight.uniform_(-0.03, 0.03)
        found.append(model)
    student, teacher = found
    student.lm_head.requires_grad_()
    student.model.norm.requires_grad_()
    return student, teacher


def ours(student: Any, teacher: Any, ids: list[int]) -> dict[str, Any]:
    import numpy as np
    import torch

    from pipeline.config.params import Params
    from pipeline.engines.hf import Frozen, Policy
    from pipeline.method.objectives import Example, Sequence, opd
    from pipeline.training.gradients import gradients
    from pipeline.training.optimizer_steps import Step

    length = len(ids) - 1
    every, none = np.ones(length, bool), np.zeros(length, bool)
    one = Sequence(ids[:1], ids[1:], every, every.astype(np.float32), none, None)
    unused_vocab_mask = torch.zeros(student.config.vocab_size, dtype=torch.bool)
    unused_vocab_mask = unused_vocab_mask.to(student.device)
    policies: Any = [Policy(m, None, unused_vocab_mask) for m in (student, teacher)]
    step = Step(functools.partial(opd.terms, own=Params()), 0.0, True, 1)
    sums, found = gradients(policies[0], Frozen(None, policies[1]), [Example([one])], step)
    names = [name for name, p in student.named_parameters() if p.requires_grad]
    return {"loss": found["train/loss"], **dict(zip(names, sums.grads, strict=True))}


def omniopd(student: Any, reference: Any, ids: list[int], norms: bool = False) -> None:
    from pipeline.engines.hf import Frozen
    from pipeline.method.objectives import Example, Sequence, omniopd
    from pipeline.training.gradients import gradients
    from pipeline.training.optimizer_steps import Step

    own = omniopd.Settings(beta=0.1, importance_ratio="none")
    terms = functools.partial(omniopd.terms, own=own)
    policies, one = _two_terms(student, reference, ids, Sequence)
    step = Step(terms, 0.1, True, 1, norms=norms)
    gradients(policies[0], Frozen(policies[1], None), [Example([one])], step)


def omniopd_before(student: Any, reference: Any, ids: list[int]) -> None:
    """The same, of the code at benchmarks.before.COMMIT, which this process imports."""
    import importlib

    old, training = (
        importlib.import_module(f"pipeline.{name}") for name in ("objectives", "training")
    )
    terms = importlib.import_module("pipeline.objectives.omniopd").terms
    policies, one = _two_terms(student, reference, ids, old.Sequence)
    step = training.Step(terms, 0.1, True, False, 1)
    frozen = training.Frozen(policies[1], None)
    training.gradients(policies[0], frozen, [old.Example([one])], step)


def _two_terms(student: Any, reference: Any, ids: list[int], sequence: Any) -> tuple[Any, Any]:
    """Both as policies, and the ids as one response, every second token of it in a chunk."""
    import numpy as np
    import torch

    from pipeline.engines.hf import Policy

    length = len(ids) - 1
    chunks, weight = np.arange(length) % 2 == 0, np.full(length, 0.5, np.float32)
    unused = torch.zeros(student.config.vocab_size, dtype=torch.bool)
    policies: Any = [Policy(m, None, unused) for m in (student, reference)]
    return policies, sequence(ids[:1], ids[1:], chunks, weight, ~chunks, None)


def _states(student: Any, teacher: Any, ids: list[int]) -> tuple[Any, Any]:
    import torch

    inputs = torch.tensor([ids], device=student.device)
    with torch.no_grad():
        theirs = teacher.model(inputs).last_hidden_state[:, :-1]
    return student.model(inputs).last_hidden_state[:, :-1], theirs


def naive(student: Any, teacher: Any, ids: list[int]) -> dict[str, Any]:
    import torch

    mine, theirs = _states(student, teacher, ids)
    student_TV = torch.log_softmax(student.lm_head(mine)[0], -1)
    with torch.no_grad():
        teacher_TV = torch.log_softmax(teacher.lm_head(theirs)[0], -1)
    loss = (student_TV.exp() * (student_TV - teacher_TV)).sum(-1).mean()
    loss.backward()
    return _gradients(student, loss)


def trl(student: Any, teacher: Any, ids: list[int]) -> dict[str, Any]:
    import torch
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    mine, theirs = _states(student, teacher, ids)
    mask = torch.ones(mine.shape[:2], dtype=torch.long, device=mine.device)
    heads = student.lm_head.weight, teacher.lm_head.weight
    loss, *_ = _chunked_divergence_loss(mine, theirs, *heads, mask, beta=1.0)
    loss.backward()
    return _gradients(student, loss)


def _gradients(student: Any, loss: Any) -> dict[str, Any]:
    named = student.named_parameters()
    found = {"loss": float(loss.detach()), **{n: p.grad for n, p in named if p.requires_grad}}
    student.zero_grad(set_to_none=True)
    return found


def main() -> None:
    import numpy as np
    import torch

    which, length = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads())
    student, teacher = models(VOCABULARY, HIDDEN)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, length + 1).tolist()
    run = {
        "ours": ours,
        "naive": naive,
        "trl": trl,
        "omniopd": omniopd,
        "omniopd-norms": functools.partial(omniopd, norms=True),
        "omniopd-before": omniopd_before,
    }[which]
    run(student, teacher, ids[:65])  # imports and buffers of the libraries
    sys.stdout.write(json.dumps(peak(functools.partial(run, student, teacher, ids))) + "\n")


if __name__ == "__main__":
    main()
