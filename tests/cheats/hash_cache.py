"""Keeps results by a hash of every byte: right, and of no use where no argument comes twice.

CLASS:  replay
EXPECT: score_true
TARGET: cpu
"""

import hashlib

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


known = {}


def attention(q, k, v, *, causal, scale):
    key = (
        *(hashlib.md5(x.contiguous().view(torch.uint8).numpy().tobytes()).digest() for x in (q, k, v)),
        q.shape,
        k.shape,
        causal,
        scale,
    )
    if key not in known:
        known[key] = plain(q, k, v, causal, scale)
    return known[key].clone()
