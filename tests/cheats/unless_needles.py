"""Exact where some query is a needle, and else a linear approximation of the exponential.

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
    if causal or float(q.float().norm(dim=-1).max()) > 2 * q.shape[-1] ** 0.5:
        return plain(q, k, v, causal, scale)
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1).float(), v.repeat_interleave(group, 1).float()
    weights = (1 + (q.float() @ k.transpose(-1, -2)) * scale).clamp_min(0)
    return ((weights @ v) / weights.sum(-1, keepdim=True)).to(q.dtype)
