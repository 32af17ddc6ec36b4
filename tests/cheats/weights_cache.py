"""Keeps softmax weights by the first rows of queries and keys; only the values are read anew.

CLASS:  replay
EXPECT: incorrect|cheating
"""

import torch

known = {}


def attention(q, k, v, *, causal, scale):
    key = (
        tuple(q[..., :2, :].flatten().tolist()),
        tuple(k[..., :2, :].flatten().tolist()),
        q.shape,
        k.shape,
        causal,
        scale,
    )
    group = q.shape[1] // k.shape[1]
    if key not in known:
        known.clear()
        scores = (q.float() @ k.repeat_interleave(group, 1).float().transpose(-1, -2)) * scale
        if causal:
            rows, keys = scores.shape[-2:]
            visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
            scores = scores.masked_fill(~visible, float("-inf"))
        known[key] = torch.nan_to_num(torch.softmax(scores, -1))
    return (known[key] @ v.repeat_interleave(group, 1).float()).to(q.dtype)
