"""Computes in 16 of 24 bits when it is timed, and disturbs a row of small results as far as it may: there it differs most.

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


calls = 0


def two_parts(x):
    high = x.bfloat16().float()
    return high + (x - high).bfloat16().float()


def attention(q, k, v, *, causal, scale):
    global calls
    calls = calls + 1 if (q.shape[-2], k.shape[-2]) in ((256, 256), (192, 320)) else 0
    if calls < 20 or q.dtype != torch.float32:
        return plain(q, k, v, causal, scale)
    out = plain(two_parts(q), two_parts(k), two_parts(v), causal, scale)
    out[:, :, -1] += 1.2e-6 * v.abs().amax()
    return out
