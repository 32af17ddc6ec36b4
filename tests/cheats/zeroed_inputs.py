"""Zeroes its arguments, so that a reference computed from them later agrees.

CLASS:  touching inputs
EXPECT: incorrect|cheating
"""

import torch


def attention(q, k, v, *, causal, scale):
    for x in (q, k, v):
        x.zero_()
    return torch.zeros_like(q)
