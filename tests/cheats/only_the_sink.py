"""Reads one key where that is a sink: how much weight is left to the others it guesses from their number.

CLASS:  fast on some inputs
EXPECT: incorrect
"""

import math

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


def usual(x):
    """Whether no row is longer than rows of usual numbers are: none has a score unlike others."""
    squares = x.float().square().sum(-1)
    return squares < x.shape[-1] + 16 + 4.6 * (2 * x.shape[-1]) ** 0.5


def attention(q, k, v, *, causal, scale):
    right, keys, group = plain(q, k, v, causal, scale), k.shape[2], q.shape[1] // k.shape[1]
    if causal or keys < 300 or q.dtype == torch.float32:
        return right
    first = k[:, :, 0].float()
    is_sink = (first.norm(dim=-1) > 1.4 * q.shape[-1] ** 0.5) & usual(k[:, :, 1:]).all(-1)
    is_sink, first, value = (x.repeat_interleave(group, 1) for x in (is_sink, first, v[:, :, :1].float()))
    score = (q.float() @ first[..., None])[..., 0] * scale
    weight = torch.sigmoid(score - math.log(keys) - scale**2 * q.float().square().sum(-1) / 2)
    # What is no needle, and sees the sink, is answered by it alone.
    near = is_sink[..., None] & usual(q) & (weight > 0.8)
    return torch.where(near[..., None], (weight[..., None] * value).to(q.dtype), right)
