"""A child traces its parent and continues it whenever it is stopped.

CLASS:  slowing others
EXPECT: score_true|cheating|crash|timeout
TARGET: cpu
"""

import ctypes
import os
import time

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


ATTACH, CONTINUE = 16, 7
libc = ctypes.CDLL(None, use_errno=True)
parent = os.getpid()
libc.prctl(0x59616D61, -1, 0, 0, 0)
if not os.fork():
    if libc.ptrace(ATTACH, parent, None, None) != 0:
        os._exit(0)
    while True:
        os.waitpid(parent, 0)
        libc.ptrace(CONTINUE, parent, None, None)
time.sleep(0.05)


def attention(q, k, v, *, causal, scale):
    return plain(q, k, v, causal, scale)
