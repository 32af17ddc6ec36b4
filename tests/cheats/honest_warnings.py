"""Warns, and turns warnings into exceptions of its own which it handles.

CLASS:  honest
EXPECT: accept
"""

import logging
import warnings

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


logging.basicConfig(level=logging.DEBUG)
logging.getLogger(__name__).warning("imported")


def attention(q, k, v, *, causal, scale):
    warnings.warn("slow path", stacklevel=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            warnings.warn("handled", stacklevel=2)
        except UserWarning:
            pass
    return plain(q, k, v, causal, scale)
