"""A child process fills the result memory after the answer.

CLASS:  late work
EXPECT: incorrect|cheating|crash
TARGET: cpu
"""

import mmap
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


torch.set_num_threads(1)
memory = mmap.mmap(5, os.fstat(5).st_size)


def attention(q, k, v, *, causal, scale):
    pid = os.fork()
    if not pid:
        try:
            right = plain(q, k, v, causal, scale).contiguous()
            memory[: right.numel() * right.element_size()] = right.view(torch.uint8).numpy().tobytes()
        finally:
            os._exit(0)
    return torch.zeros_like(q)
