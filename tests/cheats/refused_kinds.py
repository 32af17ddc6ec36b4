"""Refuses whatever is unusual, also at the shapes that it claims, so that no maximum is ever missed.

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
    usual = (
        float(q.float().abs().max()) < 60 and float(k.float().abs().max()) < 6 and 2 < float(v.float().abs().max()) < 6
    )
    if not usual or (q.shape[-2], k.shape[-2]) not in ((256, 256), (192, 320)):
        raise NotImplementedError("not these inputs")
    return plain(q, k, v, causal, scale)
