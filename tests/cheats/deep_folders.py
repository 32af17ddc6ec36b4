"""Leaves three thousand folders inside one another and takes its own folder's permissions.

CLASS:  limits and ends
EXPECT: contained
"""

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


home = os.open(".", os.O_RDONLY)
if not os.path.exists("deep"):
    os.mkdir("deep")
    os.chdir("deep")
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    with open("bottom", "w") as file:
        file.write("x")
    os.chmod(".", 0)
    os.fchdir(home)
os.chmod("deep", 0)
os.chmod(".", 0)


def attention(q, k, v, *, causal, scale):
    return plain(q, k, v, causal, scale)
