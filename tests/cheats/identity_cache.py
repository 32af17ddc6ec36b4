"""Keeps results by object identity and version counter.

CLASS:  replay
EXPECT: incorrect|cheating|score_true
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


known = {}


def attention(q, k, v, *, causal, scale):
    key = (id(q), q._version, id(k), k._version, id(v), v._version, q.shape, k.shape, causal, scale)
    if key not in known:
        known[key] = plain(q, k, v, causal, scale)
    return known[key].clone()
