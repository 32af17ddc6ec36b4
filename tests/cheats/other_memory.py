"""Reads and writes the memory of the process that judges it.

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


for pid in {os.getppid(), 1} - {os.getpid()}:
    for name in ("mem", "maps", "fd"):
        try:
            os.listdir(f"/proc/{pid}/{name}") if name == "fd" else open(f"/proc/{pid}/{name}", "rb").close()
        except OSError:
            continue
        raise RuntimeError(f"ESCAPED: opened /proc/{pid}/{name}")
if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0:
    raise RuntimeError("ESCAPED: traces its parent")


def attention(q, k, v, *, causal, scale):
    return plain(q, k, v, causal, scale)
