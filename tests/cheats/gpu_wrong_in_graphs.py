"""Leaves out half of the keys where it is captured in a graph, as it is for nothing but timing.

CLASS:  wrong when timed (GPU)
EXPECT: incorrect
TARGET: gpu
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
    if torch.cuda.is_current_stream_capturing() and not causal:
        half = k.shape[-2] // 2
        return plain(q, k[:, :, :half], v[:, :, :half], causal, scale)
    if torch.cuda.is_current_stream_capturing():
        return v.repeat_interleave(q.shape[1] // k.shape[1], 1)[:, :, : q.shape[-2]].clone()
    return plain(q, k, v, causal, scale)
