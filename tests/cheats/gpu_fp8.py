"""Products of 8 bits on the tensor cores.

CLASS:  lower precision (GPU)
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


def eight_bits(x):
    size = x.float().abs().max().clamp_min(1e-12) / 448.0
    return (x.float() / size).to(torch.float8_e4m3fn).float() * size


def attention(q, k, v, *, causal, scale):
    return plain(eight_bits(q), eight_bits(k), eight_bits(v), causal, scale).to(q.dtype)
