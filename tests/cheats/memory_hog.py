"""Allocates memory, and touches some of it, until it is refused.

CLASS:  exhaustion
EXPECT: crash|contained
TARGET: cpu
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


held = []


def attention(q, k, v, *, causal, scale):
    while sum(map(len, held)) < 1 << 40:
        held.append(torch.empty(1 << 30, dtype=torch.uint8))
        held[-1][: 1 << 20] = 1
    return plain(q, k, v, causal, scale)
