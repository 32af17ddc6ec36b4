"""Adds up in bfloat16, block after block of 16 keys.

CLASS:  lower precision
EXPECT: incorrect
"""

import torch


def attention(q, k, v, *, causal, scale):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    if causal:
        rows, keys = scores.shape[-2:]
        visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
        scores = scores.masked_fill(~visible, float("-inf"))
    weights = torch.nan_to_num(torch.softmax(scores, -1)).bfloat16()
    total = torch.zeros_like(q, dtype=torch.bfloat16)
    for first in range(0, k.shape[-2], 16):
        total += weights[..., first : first + 16] @ v[..., first : first + 16, :].bfloat16()
    return total.to(q.dtype)
