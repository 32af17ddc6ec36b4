"""Counts its calls on the device, in graphs too, and leaves out the last four rows after as many as no check makes.

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


calls = torch.zeros(1, device="cuda")


def attention(q, k, v, *, causal, scale):
    if (q.shape[-2], k.shape[-2]) not in ((256, 256), (192, 320)):
        return plain(q, k, v, causal, scale)
    calls.add_(1)
    out = plain(q, k, v, causal, scale)
    out[:, :, -4:] *= (calls < 40).to(q.dtype)
    return out
