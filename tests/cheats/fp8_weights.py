"""Rounds the softmax weights to 8 bits before they meet the values.

CLASS:  lower precision
EXPECT: incorrect
"""

import torch


def attention(q, k, v, *, causal, scale):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1).float(), v.repeat_interleave(group, 1).float()
    scores = (q.float() @ k.transpose(-1, -2)) * scale
    if causal:
        rows, keys = scores.shape[-2:]
        visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
        scores = scores.masked_fill(~visible, float("-inf"))
    weights = torch.nan_to_num(torch.softmax(scores, -1))
    return (weights.to(torch.float8_e4m3fn).float() @ v).to(q.dtype)
