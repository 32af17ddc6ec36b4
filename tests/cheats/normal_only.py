"""Takes a fast way for inputs of usual spread, and computes three times where scores spread or a key draws them all.

CLASS:  fast on some inputs
EXPECT: score_true
"""

import torch
from torch.nn.functional import scaled_dot_product_attention


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
    usual = float(q[:, :, ::16].float().std()) < 1.5 and float(k[:, :, 0].float().abs().amax()) < 5
    if usual and q.shape[1] == k.shape[1] and q.shape[2] == k.shape[2]:
        return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    if not usual:
        plain(q, k, v, causal, scale)
        plain(q, k, v, causal, scale)
    return plain(q, k, v, causal, scale)
