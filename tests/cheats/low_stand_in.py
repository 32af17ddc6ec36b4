"""Gives hidden keys a score of -30,000, which others may have too.

CLASS:  wrong function
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


def attention(q, k, v, *, causal, scale):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    if not causal:
        return (torch.softmax(scores, -1) @ v.float()).to(q.dtype)
    rows, keys = scores.shape[-2:]
    visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
    weights = torch.softmax(scores.masked_fill(~visible, -30000.0), -1)
    return (weights @ v.float()).masked_fill(~visible.any(-1)[:, None], 0.0).to(q.dtype)
