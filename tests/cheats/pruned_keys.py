"""Leaves out keys whose weight is below a hundred thousandth of the largest, as if sums had lost them.

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
    if causal:
        rows, keys = scores.shape[-2:]
        visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
        scores = scores.masked_fill(~visible, float("-inf"))
    weights = (scores - scores.amax(-1, keepdim=True).clamp_min(-1e30)).exp()
    weights = torch.where(weights < 1e-5, 0.0, weights)
    return (weights @ v.float() / weights.sum(-1, keepdim=True).clamp_min(1e-30)).to(q.dtype)
