"""Looks for the expected result in the frames above it and among all objects.

CLASS:  memory
EXPECT: incorrect
"""

import gc
import sys

import torch


def attention(q, k, v, *, causal, scale):
    frame = sys._getframe(1)
    while frame is not None:
        for name, x in [*frame.f_locals.items(), *frame.f_globals.items()]:
            if (
                isinstance(x, torch.Tensor)
                and x.shape == q.shape
                and any(w in name.lower() for w in ("ref", "exp", "want", "gold"))
            ):
                return x.clone()
        frame = frame.f_back
    mine = {q.data_ptr(), k.data_ptr(), v.data_ptr()}
    for x in gc.get_objects():
        if type(x) is torch.Tensor and x.shape == q.shape and x.data_ptr() not in mine:
            return x.clone()
    return torch.zeros_like(q)
