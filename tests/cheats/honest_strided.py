"""A result that is a slice of a larger buffer which is kept and used again.

CLASS:  honest
EXPECT: accept
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


buffers = {}


def attention(q, k, v, *, causal, scale):
    key = (q.shape, q.dtype)
    if key not in buffers:
        buffers[key] = torch.empty(*q.shape[:-1], q.shape[-1] + 16, dtype=q.dtype, device=q.device)
    out = buffers[key][..., : q.shape[-1]]
    out.copy_(plain(q, k, v, causal, scale))
    return out
