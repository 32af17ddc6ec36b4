"""Uses its arguments as scratch and restores every bit: right, and no faster for it.

CLASS:  touching inputs
EXPECT: score_true
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
    if 0 in q.stride():  # queries that repeat cannot be written in place
        return plain(q, k, v, causal, scale)
    kept = q.clone()
    q.mul_(2)
    out = plain(q, k, v, causal, scale / 2)
    q.copy_(kept)
    return out
