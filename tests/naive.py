"""Losses written as plainly as possible, in float64, for comparison with the real ones."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.engines import char_tokenizer
from pipeline.engines.hf import Policy, policy_of
from pipeline.method.objectives import Sequence

ALPHABET = "0123456789+=,;#?"


def tiny(seed: int) -> Policy:
    """A random two-layer model over the demo's alphabet, float32."""
    torch.manual_seed(seed)
    tokenizer = char_tokenizer.tokenizer(ALPHABET)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3,  # three rows that stand for no token
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        tie_word_embeddings=True,
        initializer_range=0.3,
        eos_token_id=1,
    )
    return policy_of(LlamaForCausalLM(config).eval(), tokenizer, "cpu")


def for_vllm(vocabulary: int, **ids: int | None) -> LlamaConfig:
    """Of a tiny model that vLLM runs on a CPU, where a head has 32 numbers at least."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.3,
        **({"eos_token_id": 1} | ids),
    )


def double(policy: Policy) -> LlamaForCausalLM:
    """A float64 copy of the model."""
    copy = LlamaForCausalLM(policy.model.config).eval()
    copy.load_state_dict(policy.model.state_dict())
    copy.tie_weights()
    return copy.double()


def logps(model: Any, context: list[int], tokens: list[int], vocabulary: int) -> torch.Tensor:
    """log pi(. | context, y_<t) for each t of `tokens`, (T, V), one sequence at a time."""
    ids = torch.tensor([context + tokens])
    logits = model(input_ids=ids).logits[0, :, :vocabulary]
    return torch.log_softmax(logits, -1)[len(context) - 1 : len(context) + len(tokens) - 1]


def divergence(ours: torch.Tensor, theirs: torch.Tensor, beta: float) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence of two distributions given as logs, by its definition;
    at the ends the forward and the reverse KL."""

    def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return (p * (p.log() - q.log())).sum()

    student, teacher = ours.exp(), theirs.exp()
    if beta in (0.0, 1.0):
        return kl(student, teacher) if beta else kl(teacher, student)
    mixed = beta * teacher + (1 - beta) * student
    return beta * kl(teacher, mixed) + (1 - beta) * kl(student, mixed)


def signal_and_anchor(
    objective: str,
    student: Any,
    teacher: Any,
    reference: Any,
    sequence: Sequence,
    vocabulary: int,
    correct: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two sums of one sequence, token by token."""
    found = logps(student, sequence.context_ids, sequence.token_ids, vocabulary)
    with torch.no_grad():
        theirs, base = (
            logps(model, sequence.context_ids, sequence.token_ids, vocabulary) if model else None
            for model in (teacher, reference)
        )
    signal = torch.zeros((), dtype=torch.float64)
    anchor = torch.zeros((), dtype=torch.float64)
    for t, token in enumerate(sequence.token_ids):
        weight, logp = float(sequence.weight_T[t]), found[t, token]
        if sequence.signal_T[t]:
            old = None if sequence.old_logp_T is None else float(sequence.old_logp_T[t])
            if objective in ("opd", "opd-forks"):
                signal = signal + weight * (found[t].exp() * (found[t] - theirs[t])).sum()
            elif objective.startswith("gkd"):
                signal = signal + divergence(found[t], theirs[t], float(objective[3:]))
            elif objective == "opd-sampled":
                gap = logp.detach() - theirs[t, token]
                factor = min(float((logp.detach() - old).exp()), 2.0) if correct else 1.0
                signal = signal + gap + factor * gap * (logp - logp.detach())
            elif objective == "grpo":
                ratio = (logp - old).exp()
                signal = signal - torch.min(ratio * weight, ratio.clamp(0.8, 1.2) * weight)
            else:
                factor = min(float((logp.detach() - old).exp()), 2.0) if correct else 1.0
                signal = signal - factor * weight * logp
        if sequence.anchor_T[t]:
            anchor = anchor + (base[t].exp() * (base[t] - found[t])).sum()
    return signal, anchor
