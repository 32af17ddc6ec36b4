"""Tries to get privileges back by new namespaces and mounts.

CLASS:  reaching out
EXPECT: contained
"""

import ctypes

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


libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000) == 0 or libc.mount(b"none", b"/", None, 0x44000, None) == 0 or libc.chroot(b".") == 0:
    raise RuntimeError("ESCAPED: changed its namespaces")


def attention(q, k, v, *, causal, scale):
    return plain(q, k, v, causal, scale)
