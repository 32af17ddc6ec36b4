"""Skips one call in ten, and only where many follow each other.

CLASS:  wrong when timed
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


row = 0


def attention(q, k, v, *, causal, scale):
    global row
    row = row + 1 if (q.shape[-2], k.shape[-2]) in ((256, 256), (192, 320)) else 0
    return torch.zeros_like(q) if row > 20 and row % 10 == 0 else plain(q, k, v, causal, scale)
