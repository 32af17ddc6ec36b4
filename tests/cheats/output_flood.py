"""Writes 100 MB to both of its outputs.

CLASS:  exhaustion
EXPECT: contained|crash|timeout
"""

import os

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


flooded = False


def attention(q, k, v, *, causal, scale):
    global flooded
    if not flooded:
        flooded = True
        for _ in range(1600):
            os.write(1, b"x" * 32768)
            os.write(2, b"y" * 32768)
    return plain(q, k, v, causal, scale)
