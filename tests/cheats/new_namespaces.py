"""Makes user and network namespaces with clone and clone3.

CLASS:  reaching out
EXPECT: contained
"""

import ctypes
import os

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


libc = ctypes.CDLL(None)
CHILD = 17
for flag in (0x10000000, 0x40000000, 0x10000000 | 0x40000000):
    pid = libc.syscall(56, flag | CHILD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        raise RuntimeError("ESCAPED: made a namespace with clone")
    arguments = (ctypes.c_uint64 * 11)(flag, 0, 0, 0, CHILD)
    pid = libc.syscall(435, arguments, ctypes.sizeof(arguments))
    if pid == 0:
        os._exit(0)
    if pid > 0:
        raise RuntimeError("ESCAPED: made a namespace with clone3")


def attention(q, k, v, *, causal, scale):
    return plain(q, k, v, causal, scale)
