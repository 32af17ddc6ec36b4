"""Finds the arguments of all calls of a slice in its first one, and answers them together.

CLASS:  answers ahead
EXPECT: cheating|incorrect|score_true
TARGET: cpu
SUITE:  selftest-short
"""

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


def asked():
    """The request whose calls are being made, and the number of this one."""
    frame = sys._getframe(1)
    while frame is not None:
        if isinstance(frame.f_locals.get("request"), dict) and "call" in frame.f_locals:
            return frame.f_locals["request"], frame.f_locals["call"], frame.f_locals["self"]
        frame = frame.f_back
    return None, None, None


def arguments(call, caller):
    return sys.modules["pytest_avo.evaluation.kernel_process.calls"].tensors(caller._given, call)


present, answers = None, {}


def attention(q, k, v, *, causal, scale):
    global present
    request, call, caller = asked()
    if request is None or len(request["calls"]) == 1:
        return plain(q, k, v, causal, scale)
    if request is not present:
        present = request
        stacked = [torch.cat(x) for x in zip(*(arguments(each, caller) for each in request["calls"]), strict=True)]
        out = plain(*stacked, causal, scale)
        answers.update(enumerate(out.chunk(len(request["calls"]))))
    return answers.pop(request["calls"].index(call)).clone()
