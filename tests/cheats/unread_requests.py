"""Answers without taking requests from its socket, which fills up until the judge cannot send.

CLASS:  false replies
EXPECT: cheating|crash|timeout
"""

import json
import socket
import sys

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


def attention(q, k, v, *, causal, scale):
    frame = sys._getframe(1)
    while "link" not in frame.f_locals:
        frame = frame.f_back
    link, caller, request = (frame.f_locals[name] for name in ("link", "caller", "request"))
    link.setsockopt(socket.SOL_SOCKET, 42, 0)  # SO_PEEK_OFF: what is looked at stays, and the next look is beyond it

    def honest(q, k, v, *, causal, scale):
        return plain(q, k, v, causal, scale)

    while True:
        link.send(json.dumps({"said": "done", **caller.answer({"attention": honest}, request)}).encode())
        request = json.loads(link.recv(1 << 17, socket.MSG_PEEK))
