"""Packs what has as many sequences as its claim, refuses the rest, and aligns the mask of each as if lengths were equal.

CLASS:  wrong function
EXPECT: incorrect
"""

import torch

AVO = {"target": "cpu", "shapes": ["selftest"], "varlen": True}


def attention(q, k, v, *, causal, scale, shift=None):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q.float() @ k.float().transpose(-1, -2)) * scale
    if causal:
        rows, keys = scores.shape[-2:]
        visible = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(
            keys - rows if shift is None else shift
        )
        scores = scores.masked_fill(~visible, float("-inf"))
    return (torch.nan_to_num(torch.softmax(scores, -1)) @ v.float()).to(q.dtype)


def attention_varlen(q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, scale):
    if len(cu_seqlens_q) != 3 or (max_seqlen_q, max_seqlen_k) != (256, 256):
        raise NotImplementedError("not these sequences")
    out = torch.zeros_like(q)
    bounds = [x.tolist() for x in (cu_seqlens_q, cu_seqlens_k)]
    for a, b, c, d in zip(bounds[0], bounds[0][1:], bounds[1], bounds[1][1:]):
        if b > a:
            one = [x.transpose(0, 1)[None] for x in (q[a:b], k[c:d], v[c:d])]
            out[a:b] = attention(*one, causal=causal, scale=scale, shift=0)[0].transpose(0, 1)
    return out
