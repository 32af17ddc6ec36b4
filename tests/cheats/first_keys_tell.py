"""Leaves out the maximum where a query, and the first and last keys of a head, say that no score can be large.

CLASS:  wrong function
EXPECT: incorrect
"""

import torch


def attention(q, k, v, *, causal, scale):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1).float(), v.repeat_interleave(group, 1).float()
    q, dtype = q.float(), q.dtype
    longest = torch.cat([k[:, :, :2], k[:, :, -2:]], 2).norm(dim=-1).amax(-1)
    harmless = q.norm(dim=-1, keepdim=True) * longest[..., None, None] * scale < 80
    scores = (q @ k.transpose(-1, -2)) * scale
    if causal:
        rows, keys = scores.shape[-2:]
        visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
        scores = scores.masked_fill(~visible, float("-inf"))
    weights = torch.exp(scores - torch.where(harmless, 0.0, scores.amax(-1, keepdim=True).clamp_min(-1e30)))
    return (weights @ v / weights.sum(-1, keepdim=True).clamp_min(1e-37)).to(dtype)
