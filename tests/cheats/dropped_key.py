"""Leaves out the first key of every block of 64.

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
    if k.shape[-2] < 64:
        return plain(q, k, v, causal, scale)
    k = k.clone()
    out = plain(q, k, v, causal, scale)
    kept = [i for i in range(k.shape[-2]) if i % 64 or not i]
    if not causal:
        out = plain(q, k[:, :, kept], v[:, :, kept], causal, scale)
    else:
        out[:, :, -1:] = plain(q[:, :, -1:], k[:, :, kept], v[:, :, kept], False, scale)
    return out
