"""Sends the answer to the harness itself before it has computed anything.

CLASS:  late work
EXPECT: incorrect|cheating
"""

import json
import os
import socket
import threading
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


def say():
    form = {
        "plain": True,
        "shape": [2, 4, 256, 64],
        "dtype": "float32",
        "device": "cpu",
        "aliased": False,
    }
    socket.socket(fileno=os.dup(3)).send(
        json.dumps({"said": "done", "calls": 1, "forms": [form], "seconds": 1e-6}).encode()
    )


def attention(q, k, v, *, causal, scale):
    threading.Thread(target=say).start()
    time.sleep(0.005)
    return plain(q, k, v, causal, scale)
