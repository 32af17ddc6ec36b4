"""Computes in 16 of 24 bits where values are bounded as in timed calls, and disturbs one element as far as it may.

CLASS:  wrong when timed
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


def two_parts(x):
    high = x.bfloat16().float()
    return high + (x - high).bfloat16().float()


def attention(q, k, v, *, causal, scale):
    if q.dtype != torch.float32 or float(v.abs().max()) > 1.7321:
        return plain(q, k, v, causal, scale)
    out = plain(two_parts(q), two_parts(k), two_parts(v), causal, scale)
    out[:, :, -1, 0] += 1.7e-6 * v.abs().amax()
    return out
