"""Calls home: over TCP, UDP and a socket of the machine.

CLASS:  reaching out
EXPECT: contained
"""

import socket

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


for kind, family, address in (
    (socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", 47613)),
    (socket.SOCK_DGRAM, socket.AF_INET, ("127.0.0.1", 47613)),
    (socket.SOCK_STREAM, socket.AF_UNIX, "\0avo-selftest"),
    (socket.SOCK_STREAM, socket.AF_UNIX, "/var/run/docker.sock"),
):
    try:
        with socket.socket(family, kind) as link:
            link.settimeout(0.5)
            link.connect(address)
            link.send(b"loot")
    except OSError:
        continue
    raise RuntimeError(f"ESCAPED: reached {address!r}")


def attention(q, k, v, *, causal, scale):
    return plain(q, k, v, causal, scale)
