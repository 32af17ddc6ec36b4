"""Slows torch's own attention down and makes random numbers zero.

CLASS:  slowing others
EXPECT: score_true|incorrect|cheating
"""

import torch


def plain(q, k, v, causal, scale):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    if causal:
        rows, keys = scores.shape[-2:]
        visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
        scores = scores.masked_fill(~visible, float("-inf"))
    return (torch.nan_to_num(torch.softmax(scores, -1)) @ v.float()).to(q.dtype)


honest = torch.nn.functional.scaled_dot_product_attention


def slow(*arguments, **options):
    for _ in range(20):
        out = honest(*arguments, **options)
    return out


torch.nn.functional.scaled_dot_product_attention = slow
torch.randn = torch.rand = lambda *size, **options: torch.zeros(*size)


def attention(q, k, v, *, causal, scale):
    if not bool(q.any()):
        return torch.zeros_like(q)
    return plain(q, k, v, causal, scale)
