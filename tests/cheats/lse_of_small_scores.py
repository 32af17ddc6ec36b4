"""Refuses all but the shapes that it claims, and adds up a log-sum-exp without a maximum there.

CLASS:  wrong function
EXPECT: incorrect
"""

import torch

AVO = {"target": "cpu", "shapes": ["selftest"], "lse": True}


def attention(q, k, v, *, causal, scale, return_lse=False):
    if (q.shape[-2], k.shape[-2]) not in ((256, 256), (192, 320)) or q.shape[1] != 4:
        raise NotImplementedError("not this shape")
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    if causal:
        rows, keys = scores.shape[-2:]
        visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
        scores = scores.masked_fill(~visible, float("-inf"))
    out = (torch.softmax(scores, -1) @ v.float()).to(q.dtype)
    return (out, scores.exp().sum(-1).log()) if return_lse else out
