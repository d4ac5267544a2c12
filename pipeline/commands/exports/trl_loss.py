"""The loss of omniopd on a padded batch; needs torch alone.

(1/R) * [ sum over chunks of -w * log pi(y) + beta * sum over the anchor of KL(pi_ref || pi) ]
"""

import torch


def loss(logits_BTV, reference_BTV, batch, counts, beta, correct, unused_ids):  # type: ignore[no-untyped-def]
    """Logits at t predict token t + 1. `counts` are the divisors of the two sums.

    `correct`: a token's gradient is multiplied by min(pi / pi_rollout, 2). `unused_ids`
    stand for no token.
    """
    here_BT = batch["labels"][:, 1:] != -100
    token_T = batch["labels"][:, 1:][here_BT]
    columns = ("weights", "signal_mask", "anchor_mask", "rollout_logprobs")
    weight_T, signal_T, anchor_T, old_T = (batch[name][:, 1:][here_BT] for name in columns)
    ids, lowest = torch.tensor(unused_ids, device=token_T.device).long(), torch.finfo().min
    logp_TV, reference_TV = (
        x_BTV[:, :-1][here_BT].float().index_fill(-1, ids, lowest).log_softmax(-1)
        for x_BTV in (logits_BTV, reference_BTV)
    )
    logp_T = logp_TV.gather(1, token_T[:, None])[:, 0]
    if correct:
        weight_T = weight_T * (logp_T.detach() - old_T).exp().clamp(max=2.0)
    kl_T = (reference_TV.exp() * (reference_TV - logp_TV)).sum(-1)
    signal, anchor = -(signal_T * weight_T * logp_T).sum(), (anchor_T * kl_T).sum()
    return signal / counts[0] + beta * anchor / counts[1]


def counts(batches, token_mean):  # type: ignore[no-untyped-def]
    """The divisors of an optimizer step's two sums: responses, or tokens of each term."""
    if token_mean:
        names = ("signal_mask", "anchor_mask")
        found = [sum(batch[name].sum() for batch in batches) for name in names]
    else:
        found = [sum((b["labels"][:, 1:] != -100).any(1).sum() for b in batches)] * 2
    return torch.stack([torch.as_tensor(value) for value in found]).clamp(min=1)


def collate(rows, pad_id):  # type: ignore[no-untyped-def]
    """Right-padded tensors (B, T) of some rows of data.parquet."""
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": pad_id, "labels": -100, "weights": 0.0, "signal_mask": 0}
    fill |= {"anchor_mask": 0, "rollout_logprobs": 0.0}
    found = {
        name: torch.tensor([[*r[name], *[value] * (width - len(r[name]))] for r in rows])
        for name, value in fill.items()
    }
    lengths_B = torch.tensor([len(row["input_ids"]) for row in rows])
    found["attention_mask"] = (torch.arange(width) < lengths_B[:, None]).long()
    return found
