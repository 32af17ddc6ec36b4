"""Computes single precision inputs in two bfloat16 parts each, which keeps 16 of 24 bits.

CLASS:  lower precision
EXPECT: incorrect
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


def two_parts(x):
    high = x.bfloat16().float()
    return high + (x - high).bfloat16().float()


def attention(q, k, v, *, causal, scale):
    if q.dtype == torch.float32:
        q, k, v = two_parts(q), two_parts(k), two_parts(v)
    return plain(q, k, v, causal, scale)
